//! Where a host and its guests meet: a Unix socket in the profile's folder, which only its owner may open.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::GUESTS;
use super::host::{over, serve};
use crate::client::Client;

/// The socket's name in the profile's folder.
const NAME: &str = "posthorn.sock";
/// When the system has no room for another connection (open files), it is tried again after this long.
const NO_ROOM: Duration = Duration::from_millis(200);

/// Calls with the socket's path, or with another to the same place if that is too long for a socket: the
/// system's limit is 108 bytes, or 104.
fn at<T>(folder: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = folder.join(NAME);
    if SocketAddr::from_pathname(&path).is_ok() {
        return call(&path);
    }
    let way = ShortWay::to(folder)?;
    call(&way.link().join(NAME))
}

/// A link to a folder, in a folder of its own that only we may look into. It is gone when this is dropped.
struct ShortWay(PathBuf);

impl ShortWay {
    fn to(folder: &Path) -> io::Result<Self> {
        let number = OsRng.try_next_u64().map_err(io::Error::other)?;
        let own = std::env::temp_dir().join(format!("posthorn-{number:016x}"));
        DirBuilder::new().mode(0o700).create(&own)?;
        let way = Self(own);
        symlink(std::path::absolute(folder)?, way.link())?;
        Ok(way)
    }

    fn link(&self) -> PathBuf {
        self.0.join("p")
    }
}

impl Drop for ShortWay {
    fn drop(&mut self) {
        // A temporary folder that stays hurts nobody.
        let _ = std::fs::remove_file(self.link());
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Whether the other end is a process of our own user.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// A connection to whoever has the profile in a folder; `None` if nobody listens there. What stands there may
/// be left of a process that was killed.
pub(in crate::client) fn connect(folder: &Path) -> io::Result<Option<StdStream>> {
    match at(folder, |path| StdStream::connect(path)) {
        Ok(stream) => {
            stream.set_nonblocking(true)?;
            Ok(Some(stream))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        },
    }
}

/// The stream of a guest, inside of a runtime. An error: the socket is somebody else's.
pub(in crate::client) fn guest_stream(stream: StdStream) -> io::Result<UnixStream> {
    let stream = UnixStream::from_std(stream)?;
    if is_ours(&stream) { Ok(stream) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// A profile that is shared with other processes of its owner: until this is dropped, or ended. To be ended
/// before the client is closed.
#[derive(Debug)]
pub struct Share {
    ending: watch::Sender<bool>,
    serving: JoinSet<()>,
    socket: PathBuf,
}

impl Share {
    /// Takes no more requests, and waits for so long at most until those that were taken are answered.
    pub async fn end(mut self, patience: Duration) {
        self.remove();
        let _ = self.ending.send(true);
        // Whoever is not answered by then hears that the other end is gone.
        let _ = timeout(patience, self.serving.join_next()).await;
    }

    fn remove(&self) {
        // It is gone already when it was ended.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Serves guests. Whoever has the profile is alone with that, so that a socket which stands there is left of
/// a process that was killed.
pub(in crate::client) fn share(client: Client, folder: &Path) -> io::Result<Share> {
    let socket = folder.join(NAME);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = at(folder, |path| StdListener::bind(path))?;
    // Until here the folder's permissions stand before it; and whoever connects is looked at.
    std::fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (ending, ended) = watch::channel(false);
    let mut serving = JoinSet::new();
    serving.spawn(receive(client, listener, ended));
    Ok(Share { ending, serving, socket })
}

async fn receive(client: Client, listener: UnixListener, ended: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(GUESTS));
    let mut guests = JoinSet::new();
    let mut watched = ended.clone();
    loop {
        tokio::select! {
            () = over(&mut watched) => break,
            (accepted, place) = next(&listener, &room) => match accepted {
                Ok((stream, _)) if is_ours(&stream) => {
                    let (client, ended) = (client.clone(), ended.clone());
                    guests.spawn(async move {
                        let (input, output) = stream.into_split();
                        // How a guest goes away is its own affair.
                        let _ = serve(client, input, output, ended).await;
                        drop(place);
                    });
                }
                Ok(_) => {}
                Err(_) => sleep(NO_ROOM).await,
            },
            Some(_) = guests.join_next() => {}
        }
    }
    drop(listener);
    while guests.join_next().await.is_some() {}
}

/// The next guest, when there is room for one.
async fn next(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> (io::Result<(UnixStream, tokio::net::unix::SocketAddr)>, Result<OwnedSemaphorePermit, AcquireError>) {
    let place = Arc::clone(room).acquire_owned().await;
    (listener.accept().await, place)
}
