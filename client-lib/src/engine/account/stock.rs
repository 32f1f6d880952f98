//! What the relay is kept stocked with: creation tokens, key packages, the contact card.
//!
//! What is too old is judged by the relay's clock against what the relay says, never by ours against its: a
//! device whose clock is wrong would publish without end, or never.

use posthorn_proto::frame::{PublishCard, PublishKeyPackages, Refusal, Request};
use posthorn_proto::{ErrorCode, KeyHash, Token};

use super::Own;
use super::profile;
use crate::conversation::Cause;
use crate::engine::link::request::{Pending, is_passing};
use crate::engine::live::HeldBack;
use crate::engine::{Error, LinkId, Step};
use crate::group::{KeyPackage, KeyPackageKind, KeyPackageRef, Provider};

/// One-time key packages that are published at once; new ones when fewer than [`PACKAGES_LOW`] are left.
const PACKAGES: u32 = 20;
const PACKAGES_LOW: u32 = 8;
/// A last-resort key package is replaced after this long, seconds: a week (rule 15).
const LAST_RESORT_SECONDS: u64 = 7 * 24 * 3600;
/// The secrets of one that was replaced are kept for this long, seconds: somebody may have taken it just
/// before.
const LAST_RESORT_GRACE: u64 = 7 * 24 * 3600;
/// How far the relay's clock may step back, seconds, before what it told is taken for wrong.
const CLOCKS_DIFFER: u64 = 3600;
/// Tokens that are drawn at once; new ones when fewer than [`TOKENS_LOW`] are left.
const TOKENS: u32 = 16;
const TOKENS_LOW: usize = 6;
/// How long nothing is asked after a relay had none left for today, milliseconds: 10 minutes.
const NO_TOKENS_WAIT: u32 = 10 * 60 * 1000;

impl Step<'_> {
    pub(super) fn draw_tokens(&mut self, account: &LinkId) -> Result<(), Error> {
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::DrawTokens(_)));
        let held = self.live.held_back.contains_key(&HeldBack::Tokens);
        if asked || held || self.tokens()? >= TOKENS_LOW {
            return Ok(());
        }
        // Hashes that an earlier run sent may or may not have arrived; sending them again is harmless.
        if profile::undrawn_tokens(self.tx)?.is_empty() {
            let count = TOKENS.min(self.limits(account).tokens_per_device.max(1));
            let tokens: Vec<Token> = (0..count).map(|_| Token::random(self.rng)).collect();
            profile::put_tokens(self.tx, &tokens)?;
        }
        let hashes: Vec<KeyHash> = profile::undrawn_tokens(self.tx)?;
        self.request(account, Request::creation_tokens(hashes.clone()), Pending::DrawTokens(hashes));
        Ok(())
    }

    /// How many can be spent: looked at in every step, counted when one came or went.
    fn tokens(&mut self) -> Result<usize, Error> {
        let count = match self.live.tokens {
            Some(count) => count,
            None => profile::count_tokens(self.tx)?,
        };
        self.live.tokens = Some(count);
        Ok(count)
    }

    /// Takes one out for good; the caller keeps it with what it pays for.
    pub(in crate::engine) fn take_token(&mut self) -> Result<Option<Token>, Error> {
        self.live.tokens = None;
        Ok(profile::take_token(self.tx)?)
    }

    pub(in crate::engine) fn tokens_drawn(&mut self, hashes: &[KeyHash], accepted: u32) -> Result<(), Error> {
        self.live.tokens = None;
        profile::drawn_tokens(self.tx, &hashes[..hashes.len().min(accepted as usize)])?;
        if accepted == 0 {
            let text = "the relay gives no more tokens today: new conversations wait until it does";
            let refusal = Refusal::new(ErrorCode::RateLimited, text);
            return self.tokens_refused(&Refusal { retry_after_ms: NO_TOKENS_WAIT, ..refusal });
        }
        self.look_everywhere()
    }

    /// Only what costs a token waits; everything else goes on.
    pub(in crate::engine) fn tokens_refused(&mut self, refusal: &Refusal) -> Result<(), Error> {
        self.hold_back(HeldBack::Tokens, refusal);
        Ok(())
    }

    pub(super) fn publish_key_packages(&mut self, own: &Own, account: &LinkId) -> Result<(), Error> {
        let now = self.relay_now();
        let since = own.profile.last_resort_since;
        // One of the future was published by a clock that has been put right since: nobody takes it yet.
        let is_fresh = |since: u64| {
            since <= now / 1000 + CLOCKS_DIFFER && since.saturating_add(LAST_RESORT_SECONDS) > now / 1000
        };
        let fresh = since.is_some_and(is_fresh);
        let enough = self.live.stock.is_some_and(|stock| stock >= PACKAGES_LOW);
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::PublishKeyPackages { .. }));
        if (fresh && enough) || asked {
            return Ok(());
        }
        let most = PACKAGES.min(self.limits(account).key_packages_per_device.saturating_sub(1));
        let wanted = match self.live.stock {
            Some(_) if enough => 0,
            Some(_) => most,
            // After a start, ask first what is there.
            None if since.is_some() => 0,
            None => most,
        };
        let provider = Provider::new(self.tx, None);
        for reference in profile::take_expired_key_packages(self.tx, self.earlier_clock() / 1000)? {
            KeyPackage::forget(&provider, &reference)?;
        }
        let leaf = own.leaf()?;
        let make = |kind| -> Result<_, Error> {
            let made = KeyPackage::make(&provider, &leaf, kind, now)?;
            profile::note_key_package(self.tx, &made)?;
            Ok((made.reference, bytes::Bytes::from(made.bytes)))
        };
        let one_time =
            (0..wanted).map(|_| Ok(make(KeyPackageKind::OneTime)?.1)).collect::<Result<_, Error>>()?;
        let renew = !fresh && (self.live.stock.is_some() || since.is_none());
        let last_resort = renew.then(|| make(KeyPackageKind::LastResort)).transpose()?;
        let (last_resort_ref, last_resort) = last_resort.unzip();
        let pending = Pending::PublishKeyPackages { any: renew || wanted > 0, last_resort: last_resort_ref };
        let request = Request::PublishKeyPackages(PublishKeyPackages { one_time, last_resort });
        self.request(account, request, pending);
        Ok(())
    }

    pub(in crate::engine) fn key_packages_published(
        &mut self,
        any: bool,
        last_resort: Option<KeyPackageRef>,
        one_time: u32,
        last_resort_since: u64,
    ) -> Result<(), Error> {
        // A relay that keeps less than it was given would otherwise be given it again at once, without end.
        self.live.stock = Some(if any { one_time.max(PACKAGES_LOW) } else { one_time });
        let now = self.relay_now() / 1000;
        // What it says must not be of the future, or nothing would ever be renewed. 0 says that there is
        // none.
        let since = match &last_resort {
            Some(newest) => {
                profile::replace_last_resort(self.tx, newest, now + LAST_RESORT_GRACE)?;
                now.max(1)
            }
            None => last_resort_since.min(now),
        };
        self.change_profile(|profile| profile.last_resort_since = (since > 0).then_some(since))?;
        self.registration_goes_on()
    }

    pub(super) fn publish_card(&mut self, own: &Own, account: &LinkId) -> Result<(), Error> {
        let asked = self.live.asked(account, |pending| matches!(pending, Pending::PublishCard(_)));
        if asked || (own.profile.card_version > 0 && !own.profile.card_due) {
            return Ok(());
        }
        // Neither clock alone decides: no later card could take the place of one of the far future, and
        // others refuse it.
        let version = self.earlier_clock().max(own.profile.card_version + 1);
        let card = own.card(version)?;
        let request = Request::PublishCard(PublishCard { version, card: card.encoded().to_vec().into() });
        self.request(account, request, Pending::PublishCard(version));
        Ok(())
    }

    pub(in crate::engine) fn card_published(&mut self, version: u64) -> Result<(), Error> {
        self.change_profile(|profile| (profile.card_version, profile.card_due) = (version, false))?;
        self.registration_goes_on()
    }

    /// The relay does not take what an account needs. For good: whoever registers is told, and the app.
    pub(in crate::engine) fn stock_refused(&mut self, id: &LinkId, refusal: &Refusal) -> Result<(), Error> {
        self.back_off(id, refusal);
        if is_passing(refusal) {
            return Ok(());
        }
        let replies = std::mem::take(&mut self.live.promised.registering);
        if replies.is_empty() {
            let text = format!("the relay does not take what this account needs: {}", refusal.message);
            self.alarm(None, Cause::Refused, None, text);
        }
        for reply in replies {
            self.answer(reply, Err(super::register::refused(refusal)));
        }
        Ok(())
    }
}
