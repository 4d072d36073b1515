//! The listeners, all bound before anything else begins: who finds a port taken has changed nothing.

use crate::problem::Problem;
use miette::Report;
use serin_config::{AdminListen, Config};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
};

/// What is bound.
pub(crate) struct Bound {
    pub(super) gateway: TcpListener,
    pub(super) admin: AdminListener,
    /// The socket in the file system, if there is one.
    pub(super) socket: Option<SocketFile>,
}

/// The admin API's listener.
pub(crate) enum AdminListener {
    Tcp(TcpListener),
    Socket(UnixListener, PathBuf),
}

/// A socket in the file system; removed when it is dropped.
pub(crate) struct SocketFile(PathBuf);

impl Bound {
    pub(crate) fn open(config: &Config) -> miette::Result<Self> {
        let gateway = tcp(config.gateway.listen, "gateway", "gateway.listen")?;
        let (admin, socket) = match &config.admin.listen {
            AdminListen::Tcp(address) => (
                AdminListener::Tcp(tcp(*address, "admin API", "admin.listen")?),
                None,
            ),
            AdminListen::Socket(path) => (
                AdminListener::Socket(unix(path)?, path.clone()),
                Some(SocketFile(path.clone())),
            ),
        };
        Ok(Self {
            gateway,
            admin,
            socket,
        })
    }
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before us wanted the same.
        let _ = fs::remove_file(&self.0);
    }
}

fn tcp(address: SocketAddr, whose: &str, field: &str) -> miette::Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "end the process that listens there (`ss -ltnp sport = :{}` names it), or set `{field}` to another port",
                address.port()
            ),
            io::ErrorKind::PermissionDenied => format!("set `{field}` to a port above 1023"),
            io::ErrorKind::AddrNotAvailable => {
                format!("set `{field}` to an address of this machine, such as 127.0.0.1 or 0.0.0.0")
            }
            _ => format!("set `{field}` to another address"),
        };
        Report::new(Problem::new(format!("the {whose} cannot listen on {address}"), help).because(error))
    })
}

fn unix(path: &Path) -> miette::Result<UnixListener> {
    // What a process left behind that was killed answers nobody.
    let stale = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let bound = if stale { fs::remove_file(path) } else { Ok(()) }
        .and_then(|()| UnixListener::bind(path))
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
    bound.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "end the process that listens there, or set `admin.socket` to another path"
            }
            io::ErrorKind::NotFound => "create its folder, or set `admin.socket` to another path",
            _ => "set `admin.socket` to a path that this user may create",
        };
        Report::new(
            Problem::new(
                format!("the admin API cannot listen on {}", path.display()),
                help,
            )
            .because(error),
        )
    })
}
