//! Servers, a way to break connections, and the faults of the suite.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use eventstore_messaging::{
    Bus,
    conformance::{Another, Fault, Faults, act},
};
use eventstore_rabbitmq::RabbitMqOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    process::Command,
    sync::watch,
};

/// Returns the URL of the server that all tests share.
pub fn url() -> String {
    std::env::var("EVENTSTORE_TEST_RABBITMQ_URL").unwrap_or_else(|_| {
        panic!("EVENTSTORE_TEST_RABBITMQ_URL is not set: `scripts/brokers` starts a server and prints it")
    })
}

/// Carries bytes between clients and a server.
pub struct Proxy {
    pub url: String,
    /// How often all connections were closed, and whether answers are lost.
    state: Arc<watch::Sender<(u64, bool)>>,
    /// Whether the server is away.
    pub away: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn to(url: &str) -> Self {
        let (user, server) = url.rsplit_once('@').expect("a URL with a user");
        let (server, vhost) = server.split_once('/').map_or((server, None), |(server, vhost)| (server, Some(vhost)));
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = format!("{user}@{}", listener.local_addr().unwrap());
        if let Some(vhost) = vhost {
            url += &format!("/{vhost}");
        }
        let state = Arc::new(watch::Sender::new((0, false)));
        let of_all = state.clone();
        let away = Arc::<AtomicBool>::default();
        let is_away = away.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away closes the connection.
                if is_away.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, of_all.subscribe(), false));
                tokio::spawn(carry(from_server, to_client, of_all.subscribe(), true));
            }
        });
        Self { url, state, away }
    }

    pub fn cut(&self) -> Fault {
        let (begin, end) = (self.state.clone(), self.state.clone());
        Fault {
            begin: act(move |_| {
                begin.send_modify(|state| state.1 = true);
                async {}
            }),
            end: act(move |_| {
                end.send_modify(|state| *state = (state.0 + 1, false));
                async {}
            }),
        }
    }
}

async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut state: watch::Receiver<(u64, bool)>,
    answers: bool,
) {
    let begun = state.borrow().0;
    let mut bytes = vec![0; 64 << 10];
    loop {
        tokio::select! {
            read = from.read(&mut bytes) => {
                let Ok(count @ 1..) = read else { return };
                let (closed, lost) = *state.borrow();
                if closed != begun {
                    return;
                }
                if !(answers && lost) && to.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
            changed = state.changed() => {
                if changed.is_err() || state.borrow().0 != begun {
                    return;
                }
            }
        }
    }
}

/// A server of one test, by `scripts/brokers` in a folder of its own.
pub struct Server {
    pub url: String,
    folder: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let process = std::process::id().to_string();
        let printed = run(folder.path().into(), &["for", &process, "rabbitmq"]).await;
        let url = printed.lines().find_map(|line| line.strip_prefix("EVENTSTORE_TEST_RABBITMQ_URL=")).unwrap();
        Arc::new(Self { url: url.into(), folder })
    }

    /// Kills it by `SIGKILL`, and starts it again.
    pub async fn crash(&self) {
        run(self.folder.path().into(), &["crash", "rabbitmq"]).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(script());
        command.env("TMPDIR", self.folder.path()).arg("stop").status().unwrap();
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/brokers")
}

async fn run(folder: PathBuf, arguments: &[&str]) -> String {
    let output = Command::new(script()).env("TMPDIR", folder).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a test keeps while it runs.
pub struct Kept {
    _server: Option<Arc<Server>>,
    _proxy: Proxy,
}

/// Returns a bus, and what can be broken of it.
pub async fn bus(
    options: RabbitMqOptions,
    partitions: u16,
    url: String,
    server: Option<Arc<Server>>,
) -> (Bus, Faults, Kept) {
    let proxy = Proxy::to(&url).await;
    let options = options.partitions(partitions);
    let bus = Bus::new(options.clone().connect(&proxy.url).await.unwrap());
    let is_away = proxy.away.clone();
    let restart = server.clone().map(|server| {
        act(move |_| {
            let (server, away) = (server.clone(), is_away.clone());
            async move {
                // The script also has the queues choose their leaders: on one server they may not do so by themselves
                // (rabbitmq-server#10070).
                away.store(true, Ordering::Relaxed);
                server.crash().await;
                away.store(false, Ordering::Relaxed);
            }
        })
    });
    let another: Another = Box::new(move || {
        let (options, url) = (options.clone(), url.clone());
        Box::pin(async move { Bus::new(options.connect(&url).await.unwrap()) })
    });
    let faults = Faults { cut: Some(proxy.cut()), restart, another: Some(another), ..Faults::default() };
    (bus, faults, Kept { _server: server, _proxy: proxy })
}
