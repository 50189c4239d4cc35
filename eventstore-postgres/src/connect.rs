//! Opens connections to the server.

use std::{io, time::Duration};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::{net::TcpStream, time::timeout};

/// How long a caller waits for a connection, or for the server's answer on a connection that was idle.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a connection. After [`CONNECT_TIMEOUT`] the error is an I/O error of kind `TimedOut`.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
    timeout(CONNECT_TIMEOUT, options.connect()).await.unwrap_or_else(|_| Err(timed_out().into()))
}

/// Checks that the server accepts connections. Sends nothing, and closes the connection at once.
pub(crate) async fn probe(options: &PgConnectOptions) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = socket_folder(options) {
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        return tokio::net::UnixStream::connect(socket).await.map(drop);
    }
    TcpStream::connect((options.get_host(), options.get_port())).await.map(drop)
}

/// Returns the folder of the server's Unix socket, if the options name one.
#[cfg(unix)]
fn socket_folder(options: &PgConnectOptions) -> Option<std::path::PathBuf> {
    let host = || options.get_host().starts_with('/').then(|| options.get_host().into());
    options.get_socket().cloned().or_else(host)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_a_path_is_the_folder_of_a_socket() {
        let options = PgConnectOptions::new_without_pgpass;
        let found = |options: PgConnectOptions| socket_folder(&options).map(|folder| folder.display().to_string());
        assert_eq!(found(options().host("/run/postgresql")).as_deref(), Some("/run/postgresql"));
        assert_eq!(found(options().socket("/tmp/socket")).as_deref(), Some("/tmp/socket"));
        assert_eq!(found(options().host("database.example.com")), None);
    }

    #[test]
    fn a_socket_comes_before_the_host() {
        let options = PgConnectOptions::new_without_pgpass().host("database.example.com").socket("/tmp/socket");
        assert_eq!(socket_folder(&options), Some("/tmp/socket".into()));
    }
}
