//! The account connection: registering, proving to be this device, and keeping the relay stocked (card, key
//! packages, tokens, the two inboxes).

use posthorn_proto::auth::AccountKey;
use posthorn_proto::code::Retry;
use posthorn_proto::frame::{
    Authenticate, Create, PublishCard, PublishKeyPackages, Refusal, Register, Request, ServerBody,
};
use posthorn_proto::{ErrorCode, KeyHash, MailboxId, Reader, Token};

use super::link::Pending;
use super::profile::{self, Inbox, Profile};
use super::reading::{Purpose, Reading};
use super::{Account, Answer, CommandError, Effect, EngineError, Event, Link, LinkId, Step};
use crate::conversation::Cause;
use crate::identity::{Card, CardDevice, ContactLink, Credential, Device};
use crate::inbox::InboxAddress;
use crate::session::{KeyPackage, KeyPackageKind, OwnLeaf, Provider};
use crate::store::StoreError;

/// One-time key packages that are published at once; new ones when fewer than [`PACKAGES_LOW`] are left.
const PACKAGES: usize = 20;
const PACKAGES_LOW: u32 = 8;
/// A last-resort key package is replaced after this long, seconds: a week (rule 15).
const LAST_RESORT_SECONDS: u64 = 7 * 24 * 3600;
/// Tokens that are drawn at once; new ones when fewer than [`TOKENS_LOW`] are left.
const TOKENS: usize = 16;
const TOKENS_LOW: usize = 6;
/// Envelopes in an inbox live as long as conversations' do: 30 days, in seconds.
pub(super) const EXPIRY_SECONDS: u32 = 30 * 24 * 3600;
/// Quota of the public inbox, bytes: anybody may write there (rule 13).
const PUBLIC_INBOX_BYTES: u64 = 4 << 20;
const PRIVATE_INBOX_BYTES: u64 = 16 << 20;

/// This device as it stands in its leaves, owned.
pub(super) struct OwnDevice {
    device: Device,
    credential: Credential,
    inbox: InboxAddress,
}

impl OwnDevice {
    pub(super) fn of(profile: &Profile) -> Result<Self, StoreError> {
        Ok(Self {
            device: profile.device(),
            credential: profile.credential()?,
            inbox: profile.private_inbox.address(&profile.relay()?),
        })
    }

    pub(super) fn leaf(&self) -> OwnLeaf<'_> {
        OwnLeaf { device: &self.device, credential: &self.credential, inbox: &self.inbox }
    }
}

impl Profile {
    /// The two connections to our own relay.
    pub(super) fn link(&self, link: Link) -> Result<LinkId, StoreError> {
        Ok(LinkId { relay: self.relay_url()?, link })
    }

    /// What the app may know of it.
    pub(super) fn summary(&self) -> Result<Account, StoreError> {
        let (handle, relay) = (self.handle()?, self.relay_url()?);
        let identity = self.identity().key();
        let link = ContactLink::new(handle.clone(), relay.clone(), identity);
        Ok(Account {
            handle: handle.to_string(),
            relay: relay.to_string(),
            identity_key: *identity.as_bytes(),
            device: self.device().id().0,
            link: link.map(|link| link.to_string()).unwrap_or_default(),
            registered: self.complete(),
        })
    }

    /// The relay has everything that others need to write to us.
    pub(super) fn complete(&self) -> bool {
        self.registered && self.card_version > 0 && self.last_resort_since > 0 && self.private_inbox.created
    }

    fn inbox_mut(&mut self, link: Link) -> &mut Inbox {
        match link {
            Link::Account => &mut self.public_inbox,
            Link::Mailboxes => &mut self.private_inbox,
        }
    }
}

impl Step<'_> {
    pub(super) fn progress_account(&mut self) -> Result<(), EngineError> {
        let Some(mut profile) = Profile::load(self.tx)? else { return Ok(()) };
        let account = profile.link(Link::Account)?;
        self.introduce(&profile, &account)?;
        if self.live.ready(&account, self.now).is_none() {
            return Ok(());
        }
        self.draw_tokens(&account)?;
        for link in [Link::Account, Link::Mailboxes] {
            self.create_inbox(&mut profile, link)?;
        }
        if profile.public_inbox.created && profile.private_inbox.created {
            self.publish_key_packages(&profile, &account)?;
            self.publish_card(&profile, &account)?;
        }
        Ok(())
    }

    /// Registers, or proves to be the device.
    fn introduce(&mut self, profile: &Profile, account: &LinkId) -> Result<(), EngineError> {
        let Some(up) = self.live.links.get(account).and_then(|link| link.up()) else { return Ok(()) };
        let asked = up.pending.values().any(|p| matches!(p, Pending::Register(_) | Pending::Authenticate(_)));
        if up.authenticated || asked || up.not_before > self.now {
            return Ok(());
        }
        let Some(challenge) = up.hello.as_ref().map(|hello| hello.challenge) else { return Ok(()) };
        let device = profile.device();
        let Ok(key) = AccountKey::of_device(device.account_secret(), &challenge) else {
            self.effects.push(Effect::Disconnect(account.clone()));
            return Ok(());
        };
        let proof = key.device_proof();
        if profile.registered {
            let request = Request::Authenticate(Authenticate { device: device.id(), proof });
            self.request(account, request, Pending::Authenticate(key));
        } else {
            let request = Request::Register(Register {
                invite: profile.invite.clone(),
                handle: profile.handle()?,
                identity_key: *profile.identity().key().as_bytes(),
                device: device.id(),
                device_key: device.account_key(),
                proof,
            });
            self.request(account, request, Pending::Register(key));
        }
        Ok(())
    }

    fn draw_tokens(&mut self, account: &LinkId) -> Result<(), EngineError> {
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::DrawTokens(_)));
        if asked || profile::count_tokens(self.tx)? >= TOKENS_LOW {
            return Ok(());
        }
        // Hashes that an earlier run sent may or may not have arrived; sending them again is harmless.
        if profile::undrawn_tokens(self.tx)?.is_empty() {
            let tokens: Vec<Token> = (0..TOKENS).map(|_| Token::random(self.rng)).collect();
            profile::put_tokens(self.tx, &tokens)?;
        }
        let hashes: Vec<KeyHash> = profile::undrawn_tokens(self.tx)?;
        self.request(account, Request::DrawTokens(hashes.clone()), Pending::DrawTokens(hashes));
        Ok(())
    }

    fn create_inbox(&mut self, profile: &mut Profile, link: Link) -> Result<(), EngineError> {
        let id = profile.link(link)?;
        let asked = self.live.asked(&id, |pending| matches!(pending, Pending::CreateInbox(_)));
        if profile.inbox_mut(link).created || asked || self.live.ready(&id, self.now).is_none() {
            return Ok(());
        }
        if profile.inbox_mut(link).token.is_none() {
            let Some(token) = profile::take_token(self.tx)? else { return Ok(()) };
            profile.inbox_mut(link).token = Some(crate::store::record::Secret(*token.expose()));
            profile.save(self.tx)?;
        }
        let inbox = profile.inbox_mut(link);
        let Some(token) = &inbox.token else { return Ok(()) };
        let create = Create {
            mailbox: inbox.mailbox,
            token: Token::from_bytes(token.0),
            post_key_hash: inbox.post_key().hash(),
            turn_key_hash: inbox.turn_key().hash(),
            readers: vec![Reader { id: inbox.reader, key_hash: inbox.read_key().hash() }],
            expiry: EXPIRY_SECONDS,
            quota: if link == Link::Account { PUBLIC_INBOX_BYTES } else { PRIVATE_INBOX_BYTES },
        };
        self.request(&id, Request::Create(create), Pending::CreateInbox(link));
        Ok(())
    }

    fn publish_key_packages(&mut self, profile: &Profile, account: &LinkId) -> Result<(), EngineError> {
        let seconds = self.now / 1000;
        let fresh = profile.last_resort_since + LAST_RESORT_SECONDS > seconds;
        let enough = self.live.stock.is_some_and(|stock| stock >= PACKAGES_LOW);
        if (fresh && enough)
            || self.live.asked(account, |pending| matches!(pending, Pending::PublishKeyPackages))
        {
            return Ok(());
        }
        let wanted = match self.live.stock {
            Some(_) if enough => 0,
            Some(_) => PACKAGES,
            // After a start, ask first what is there.
            None if profile.last_resort_since > 0 => 0,
            None => PACKAGES,
        };
        let own = OwnDevice::of(profile)?;
        let provider = Provider::new(self.tx);
        for reference in profile::take_expired_key_packages(self.tx, seconds)? {
            KeyPackage::forget(&provider, &reference)?;
        }
        let make = |kind| -> Result<bytes::Bytes, EngineError> {
            let made = KeyPackage::make(&provider, &own.leaf(), kind, self.now)?;
            profile::note_key_package(self.tx, &made)?;
            Ok(made.bytes.into())
        };
        let one_time = (0..wanted).map(|_| make(KeyPackageKind::OneTime)).collect::<Result<_, _>>()?;
        let renew = !fresh && (self.live.stock.is_some() || profile.last_resort_since == 0);
        let last_resort = renew.then(|| make(KeyPackageKind::LastResort)).transpose()?;
        let request = Request::PublishKeyPackages(PublishKeyPackages { one_time, last_resort });
        self.request(account, request, Pending::PublishKeyPackages);
        Ok(())
    }

    fn publish_card(&mut self, profile: &Profile, account: &LinkId) -> Result<(), EngineError> {
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::PublishCard(_)));
        if profile.card_version > 0 || asked {
            return Ok(());
        }
        let version = self.now.max(1);
        let card = own_card(profile, version)?;
        let request = Request::PublishCard(PublishCard { version, card: card.encoded().to_vec().into() });
        self.request(account, request, Pending::PublishCard(version));
        Ok(())
    }

    /// An answer to one of this module's requests.
    pub(super) fn account_answered(
        &mut self,
        id: &LinkId,
        pending: Pending,
        body: ServerBody,
    ) -> Result<(), EngineError> {
        let Some(mut profile) = Profile::load(self.tx)? else { return Ok(()) };
        match (pending, body) {
            (Pending::Register(key), ServerBody::Registered(proof))
            | (Pending::Authenticate(key), ServerBody::Authenticated(proof)) => {
                if key.check_relay(&proof).is_err() {
                    let text = format!(
                        "the relay at {} could not prove its identity: nothing is sent to it",
                        id.relay
                    );
                    self.alarm(None, Cause::RelayChanged, None, text);
                    self.effects.push(Effect::Disconnect(id.clone()));
                    return Ok(());
                }
                profile.registered = true;
                profile.invite.clear();
                if let Some(up) = self.live.links.get_mut(id).and_then(|link| link.up_mut()) {
                    up.authenticated = true;
                }
                self.event(Event::Connected);
                self.look_everywhere();
            }
            (Pending::DrawTokens(hashes), ServerBody::TokensDrawn(accepted)) => {
                profile::drawn_tokens(self.tx, &hashes[..hashes.len().min(accepted as usize)])?;
                if accepted == 0 {
                    self.back_off(id, &Refusal::new(ErrorCode::RateLimited, ""));
                }
                self.look_everywhere();
            }
            (Pending::CreateInbox(link), ServerBody::Created) => self.inbox_created(&mut profile, link)?,
            (Pending::PublishKeyPackages, ServerBody::KeyPackageStock { one_time, last_resort_since }) => {
                self.live.stock = Some(one_time);
                profile.last_resort_since = last_resort_since;
            }
            (Pending::PublishCard(version), ServerBody::Done) => profile.card_version = version,
            _ => {
                // An answer to another question: asking again at once would go on for ever.
                self.back_off(id, &Refusal::new(ErrorCode::Internal, ""));
                return Ok(());
            }
        }
        profile.save(self.tx)?;
        if profile.complete()
            && let Some(command) = self.live.registering.take()
        {
            let account = profile.summary()?;
            self.answer(command, Ok(Answer::Account(Some(account))));
        }
        Ok(())
    }

    fn inbox_created(&mut self, profile: &mut Profile, link: Link) -> Result<(), EngineError> {
        let relay = profile.relay_url()?;
        let inbox = profile.inbox_mut(link);
        inbox.created = true;
        inbox.token = None;
        let purpose = if link == Link::Account { Purpose::PublicInbox } else { Purpose::PrivateInbox };
        Reading::new(purpose, relay.as_str(), inbox.reader, &inbox.read_key())
            .save(self.tx, &inbox.mailbox)?;
        self.live.openings_dirty = true;
        Ok(())
    }

    /// The relay does not have an inbox any more (it was restored, or nobody opened it for half a year): it
    /// is made again under the same address, which stands in cards and leaves.
    pub(super) fn inbox_gone(&mut self, mailbox: &MailboxId, purpose: Purpose) -> Result<(), EngineError> {
        let Some(mut profile) = Profile::load(self.tx)? else { return Ok(()) };
        let inbox =
            profile.inbox_mut(if purpose == Purpose::PublicInbox { Link::Account } else { Link::Mailboxes });
        inbox.created = false;
        inbox.token = None;
        profile.save(self.tx)?;
        Reading::delete(self.tx, mailbox)?;
        self.alarm(
            None,
            Cause::MailboxGone,
            None,
            "the relay does not have an inbox of this device any more; it is made again",
        );
        Ok(())
    }

    /// Lets go of an account that no relay has.
    pub(super) fn forget_registration(&mut self, profile: &Profile) -> Result<(), EngineError> {
        Profile::delete(self.tx)?;
        for link in [Link::Account, Link::Mailboxes] {
            let link = profile.link(link)?;
            self.live.links.remove(&link);
            self.effects.push(Effect::Disconnect(link));
        }
        Ok(())
    }

    /// A refusal of one of this module's requests.
    pub(super) fn account_refused(
        &mut self,
        id: &LinkId,
        pending: &Pending,
        refusal: &Refusal,
    ) -> Result<(), EngineError> {
        let Some(mut profile) = Profile::load(self.tx)? else { return Ok(()) };
        match (pending, refusal.code) {
            // Busy is not no. What an earlier try may have stored must not lose its keys.
            (Pending::Register(_), Some(code)) if matches!(code.retry(), Retry::Later | Retry::Reconnect) => {
            }
            (Pending::Register(_), _) => {
                self.forget_registration(&profile)?;
                let error = refused(refusal);
                match self.live.registering.take() {
                    Some(command) => self.answer(command, Err(error)),
                    None => self.alarm(None, Cause::Refused, None, format!("registration: {error}")),
                }
                return Ok(());
            }
            (Pending::Authenticate(_), _) => {
                let text = format!("the relay does not know this device: {}", refusal.message);
                self.alarm(None, Cause::AuthenticationFailed, None, text);
            }
            (Pending::CreateInbox(link), Some(ErrorCode::TokenUnknown)) => {
                profile.inbox_mut(*link).token = None;
                profile.save(self.tx)?;
                return Ok(());
            }
            // The identical creation came through before, and somebody wrote there since.
            (Pending::CreateInbox(link), Some(ErrorCode::MailboxExists)) => {
                self.inbox_created(&mut profile, *link)?;
                profile.save(self.tx)?;
                return Ok(());
            }
            _ => {}
        }
        self.back_off(id, refusal);
        Ok(())
    }
}

/// Our card, as we hand it out.
pub(super) fn own_card(profile: &Profile, version: u64) -> Result<Card, StoreError> {
    let relay = profile.relay()?;
    let device = profile.device();
    let device = CardDevice {
        credential: profile.credential()?,
        signature_key: device.signature_key(),
        public_inbox: profile.public_inbox.address(&relay),
    };
    Card::issue(&profile.identity(), version, profile.handle()?, relay, vec![device])
        .map_err(|_| StoreError::Damaged("setting"))
}

/// A refusal as an answer to a command.
pub(super) fn refused(refusal: &Refusal) -> CommandError {
    CommandError::Refused {
        code: refusal.code.map_or_else(|| "UNKNOWN".to_owned(), |code| code.to_string()),
        message: refusal.message.clone(),
    }
}
