//! Stands between the workers and the server, and can be as bad as a network.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};

use crate::Error;

/// What the network is like.
#[derive(Clone, Copy, Default)]
struct Weather {
    /// Nothing comes through.
    black: bool,
    /// What comes through comes so much later.
    delay: Duration,
    /// How often everything was cut.
    cuts: u64,
    /// Whether the server hears of the last cut only later.
    half: bool,
}

/// How long a server does not hear that its client is gone.
const UNHEARD: Duration = Duration::from_secs(2);
/// How long a commit is under way whose client is gone.
const UNDER_WAY: Duration = Duration::from_millis(300);
/// What is asked of the server is longer than this if it is an append.
const LONG: usize = 250;

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    weather: Arc<watch::Sender<Weather>>,
    /// How many replies are still to be lost.
    lose: Arc<AtomicU64>,
    /// Whether only those to commits are, and the commits come late.
    late: Arc<AtomicBool>,
    /// How many were.
    lost: Arc<AtomicU64>,
}

impl Proxy {
    /// Leads to the server whose socket is in a folder, which may become another one.
    pub async fn start(server: &Path) -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let proxy = Self {
            port,
            weather: Arc::new(watch::Sender::default()),
            lose: Arc::default(),
            late: Arc::default(),
            lost: Arc::default(),
        };
        let (there, server) = (proxy.clone(), server.join(".s.PGSQL.5432"));
        tokio::spawn(async move {
            loop {
                if let Ok((client, _)) = listener.accept().await {
                    let (there, server) = (there.clone(), server.clone());
                    tokio::spawn(async move { there.between(client, server).await });
                }
            }
        });
        Ok(proxy)
    }

    /// Cuts all connections; if `half`, the server does not hear of it for a while.
    pub fn cut(&self, half: bool) {
        self.weather.send_modify(|weather| (weather.cuts, weather.half) = (weather.cuts + 1, half));
    }

    /// Lets so many appends or commits reach the server, and cuts their connections before the reply. If `late`, it is
    /// commits alone, and they reach the server only some time after their connections were cut.
    pub fn lose_replies(&self, replies: u64, late: bool) {
        self.late.store(late, Ordering::SeqCst);
        self.lose.store(replies, Ordering::SeqCst);
    }

    /// How many replies were lost so.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// Nothing comes through, either way.
    pub fn black(&self, black: bool) {
        self.weather.send_modify(|weather| weather.black = black);
    }

    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// As if there were none.
    pub fn calm(&self) {
        self.weather.send_modify(|weather| (weather.black, weather.delay) = (false, Duration::ZERO));
        self.lose_replies(0, false);
    }

    async fn between(self, client: TcpStream, server: PathBuf) {
        let _ = client.set_nodelay(true);
        let mut weather = self.weather.subscribe();
        let cuts = weather.borrow_and_update().cuts;
        let Ok(server) = UnixStream::connect(&server).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let asked = AtomicBool::new(false);
        let up = self.pump(&mut from_client, &mut to_server, |bytes| {
            let commit = bytes.windows(6).any(|word| word == b"COMMIT");
            asked.store(commit || bytes.len() > LONG, Ordering::SeqCst);
            commit && self.late.load(Ordering::SeqCst) && self.loses()
        });
        let down = self.pump(&mut from_server, &mut to_client, |_| {
            asked.load(Ordering::SeqCst) && !self.late.load(Ordering::SeqCst) && self.loses()
        });
        let (half, late) = tokio::select! {
            late = up => (false, late),
            _ = down => (false, None),
            cut = weather.wait_for(|weather| weather.cuts > cuts) => (cut.is_ok_and(|weather| weather.half), None),
        };
        drop((from_client, to_client));
        if let Some(commit) = &late {
            sleep(UNDER_WAY).await;
            let _ = to_server.write_all(commit).await;
        }
        if half || late.is_some() {
            sleep(UNHEARD).await;
        }
    }

    /// Whether this one is to be lost.
    fn loses(&self) -> bool {
        let lose = self.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        self.lost.fetch_add(u64::from(lose), Ordering::SeqCst);
        lose
    }

    /// Hands bytes on until either side ends, or they are to be lost: then it gives them.
    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut lose: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let mut weather = self.weather.subscribe();
        let mut bytes = vec![0; 64 << 10];
        loop {
            let Ok(read @ 1..) = from.read(&mut bytes).await else { return None };
            let delay = weather.borrow().delay;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            weather.wait_for(|weather| !weather.black).await.ok()?;
            if lose(&bytes[..read]) {
                bytes.truncate(read);
                return Some(bytes);
            }
            to.write_all(&bytes[..read]).await.ok()?;
        }
    }
}
