//! Opens a connection.

use std::{io, time::Duration};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::{net::TcpStream, time::timeout};

/// How long a caller waits for a connection, or for the server to answer on one that was idle.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A new connection, or an error within the time that a caller waits.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
    timeout(PATIENCE, options.connect()).await.unwrap_or_else(|_| Err(late().into()))
}

/// Whether the server takes a connection; it is closed before anything is said.
pub(crate) async fn reach(options: &PgConnectOptions) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = folder(options) {
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        return tokio::net::UnixStream::connect(socket).await.map(drop);
    }
    TcpStream::connect((options.get_host(), options.get_port())).await.map(drop)
}

/// The folder of the server's socket, if that is the way to it.
#[cfg(unix)]
fn folder(options: &PgConnectOptions) -> Option<std::path::PathBuf> {
    let host = || options.get_host().starts_with('/').then(|| options.get_host().into());
    options.get_socket().cloned().or_else(host)
}
