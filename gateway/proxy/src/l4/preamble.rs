//! The few bytes before opaque TCP inside a mesh hop: a version and the port that is meant, nothing else.
//!
//! ```text
//! 1 byte  version, 1
//! 2 bytes port, big endian
//! ```

use crate::snapshot::{Listener, Snapshot};
use selvage_config::resource::listener::Forward;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;

/// Writes it; the endpoint's proxy may be waiting for it before its application speaks.
pub async fn write<S: AsyncWrite + Unpin>(io: &mut S, port: u16) -> io::Result<()> {
    let [high, low] = port.to_be_bytes();
    io.write_all(&[VERSION, high, low]).await?;
    io.flush().await
}

/// Reads it.
pub async fn read<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<u16> {
    let mut bytes = [0; 3];
    io.read_exact(&mut bytes).await?;
    let [version, high, low] = bytes;
    if version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("preamble version {version}; this proxy speaks {VERSION}")));
    }
    Ok(u16::from_be_bytes([high, low]))
}

/// The listener that `port` means on a hop to port `dialled` that came in at `at`: that one itself, or another of the same workload. A port that nobody
/// declared can be meant by who dialled it only.
pub fn listener<'a>(snapshot: &'a Snapshot, at: &'a Arc<Listener>, dialled: u16, port: u16) -> Option<&'a Arc<Listener>> {
    let is_meant = match at.spec.forward {
        Forward::Own(_) => dialled == port,
        _ => at.spec.port == port,
    };
    if is_meant {
        return Some(at);
    }
    snapshot.listeners.values().find(|listener| {
        listener.spec.port == port
            && listener.spec.mesh.is_some()
            && listener.spec.identity == at.spec.identity
            && matches!(listener.spec.forward, Forward::Local(_))
    })
}
