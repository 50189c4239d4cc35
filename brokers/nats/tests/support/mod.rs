//! Servers, a way to break connections, and the faults of the suite.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{ConnectOptions, jetstream};
use eventstore_messaging::{
    Bus,
    conformance::{Another, Fault, Faults, act},
};
use eventstore_nats::{NatsBus, NatsOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    process::{Child, Command},
    sync::watch,
};

/// Returns the URL of the server that all tests share.
pub fn url() -> String {
    std::env::var("EVENTSTORE_TEST_NATS_URL").unwrap_or_else(|_| {
        panic!("EVENTSTORE_TEST_NATS_URL is not set: `scripts/brokers` starts a server and prints it")
    })
}

/// Carries bytes between clients and a server.
pub struct Proxy {
    pub url: String,
    /// How often all connections were closed, and whether answers are lost.
    state: Arc<watch::Sender<(u64, bool)>>,
}

impl Proxy {
    pub async fn to(url: &str) -> Self {
        let server = url.strip_prefix("nats://").expect("a URL without a user").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new((0, false)));
        let of_all = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away closes the connection.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, of_all.subscribe(), false));
                tokio::spawn(carry(from_server, to_client, of_all.subscribe(), true));
            }
        });
        Self { url, state }
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

/// A server of one test, in a folder of its own.
pub struct Server {
    pub url: String,
    folder: tempfile::TempDir,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// Starts a server with further lines of configuration.
    pub async fn start(configuration: &str) -> Arc<Self> {
        // To know who listens there before: the port is free a moment later.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: \"{}\"\n}}\n{configuration}\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("nats.conf"), config).unwrap();
        let server = Self { url: format!("nats://127.0.0.1:{port}"), folder, process: Mutex::default() };
        server.run().await;
        Arc::new(server)
    }

    async fn run(&self) {
        let program = std::env::var("EVENTSTORE_TEST_NATS_SERVER").unwrap_or("nats-server".into());
        let config: PathBuf = self.folder.path().join("nats.conf");
        let process = Command::new(&program)
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}: `scripts/brokers` installs it"));
        *self.process.lock().unwrap() = Some(process);
        let address: SocketAddr = self.url.strip_prefix("nats://").unwrap().parse().unwrap();
        for _ in 0..500 {
            if TcpStream::connect(address).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server does not listen");
    }

    /// Kills it by `SIGKILL`, and starts it again.
    pub async fn crash(&self) {
        let process = self.process.lock().unwrap().take();
        process.unwrap().kill().await.unwrap();
        self.run().await;
    }
}

/// Three servers that keep each message together.
pub struct Cluster {
    servers: Vec<Arc<Server>>,
}

impl Cluster {
    pub async fn start() -> Arc<Self> {
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = [port(), port(), port()];
        let routes = ports.map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).join(", ");
        let mut servers = vec![];
        for (n, port) in ports.iter().enumerate() {
            let configuration = format!(
                "server_name: \"n{n}\"\ncluster {{\n  name: \"c\"\n  listen: \"127.0.0.1:{port}\"\n  routes: [{routes}]\n}}"
            );
            servers.push(Server::start(&configuration).await);
        }
        Arc::new(Self { servers })
    }

    /// The URL of all of them.
    pub fn url(&self) -> String {
        self.servers.iter().map(|server| server.url.clone()).collect::<Vec<_>>().join(",")
    }

    /// Kills the server that leads the stream of a topic, and starts it again when another one leads.
    pub async fn crash_leader(&self, topic: &str) {
        let leader = async |server: &Server| {
            let context = operator(&server.url).await;
            let stream = context.get_stream(&streams(topic, 1)[0]).await.ok()?;
            let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
            leader.strip_prefix('n')?.parse::<usize>().ok()
        };
        let old = leader(&self.servers[0]).await.unwrap();
        let process = self.servers[old].process.lock().unwrap().take();
        process.unwrap().kill().await.unwrap();
        while leader(&self.servers[(old + 1) % 3]).await.is_none_or(|new| new == old) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.servers[old].run().await;
        // The next one must not come before this one has what it has missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Returns a bus on a cluster of its own.
pub async fn cluster() -> (Bus, Faults, Arc<Cluster>) {
    let cluster = Cluster::start().await;
    let options = NatsOptions::default().replicas(3);
    let bus = Bus::new(connect(options.clone(), &cluster.url()).await);
    // A cluster takes a moment to choose who leads.
    while let Err(error) = bus.publisher.topic("cluster.ready").await {
        println!("{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (crashing, url) = (cluster.clone(), cluster.url());
    let restart = act(move |topic| {
        let cluster = crashing.clone();
        async move { cluster.crash_leader(&topic).await }
    });
    let another: Another = Box::new(move || {
        let (options, url) = (options.clone(), url.clone());
        Box::pin(async move { Bus::new(connect(options, &url).await) })
    });
    (bus, Faults { restart: Some(restart), another: Some(another), ..Faults::default() }, cluster)
}

/// Returns JetStream as an operator uses it.
pub async fn operator(url: &str) -> jetstream::Context {
    let url = url.to_owned();
    jetstream::new(async_nats::connect(url).await.unwrap())
}

/// Returns the names of the streams of a topic.
pub fn streams(topic: &str, partitions: u16) -> Vec<String> {
    (0..partitions).map(|partition| format!("{}-{partition}", topic.replace('.', "-"))).collect()
}

pub async fn connect(options: NatsOptions, url: &str) -> NatsBus {
    // Discovered servers would be reached without the proxy.
    options.connect_with(ConnectOptions::new().ignore_discovered_servers(), url).await.unwrap()
}

/// What a test keeps while it runs.
pub struct Kept {
    _server: Option<Arc<Server>>,
    _proxy: Proxy,
}

/// Returns a bus, and what can be broken of it.
pub async fn bus(
    options: NatsOptions,
    partitions: u16,
    url: String,
    server: Option<Arc<Server>>,
) -> (Bus, Faults, Kept) {
    let proxy = Proxy::to(&url).await;
    let options = options.partitions(partitions);
    let bus = Bus::new(connect(options.clone(), &proxy.url).await);
    let context = operator(&url).await;
    let limit = |bytes: i32| {
        let context = context.clone();
        act(move |topic| {
            let context = context.clone();
            async move {
                for name in streams(&topic, partitions) {
                    let mut config = context.get_stream(name).await.unwrap().cached_info().config.clone();
                    config.max_message_size = bytes;
                    context.update_stream(config).await.unwrap();
                }
            }
        })
    };
    let trimming = context.clone();
    let trim = act(move |topic| {
        let context = trimming.clone();
        async move {
            for name in streams(&topic, partitions) {
                context.get_stream(name).await.unwrap().purge().keep(1).await.unwrap();
            }
        }
    });
    let removing = context.clone();
    let remake = act(move |topic| {
        let context = removing.clone();
        async move {
            for name in streams(&topic, partitions) {
                context.delete_stream(name).await.unwrap();
            }
        }
    });
    let restart = server.clone().map(|server| {
        act(move |_| {
            let server = server.clone();
            async move { server.crash().await }
        })
    });
    let another: Another = Box::new(move || {
        let (options, url) = (options.clone(), url.clone());
        Box::pin(async move { Bus::new(connect(options, &url).await) })
    });
    let faults = Faults {
        cut: Some(proxy.cut()),
        refuse: Some(Fault { begin: limit(10_000), end: limit(-1) }),
        restart,
        trim: Some(trim),
        remake: Some(remake),
        another: Some(another),
    };
    (bus, faults, Kept { _server: server, _proxy: proxy })
}
