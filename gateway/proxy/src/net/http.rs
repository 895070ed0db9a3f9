//! HTTP on an accepted connection: our own loops around Pingora's sessions.
//!
//! Pingora's own loop peeks (short HTTP/1.0 requests stall it), detaches its HTTP/2 streams and shuts down only as a whole process.

use super::conn::{Conn, Head, MAX_FIELDS, MAX_HEAD};
use super::worker::Worker;
use crate::connection::Connection;
use crate::driver::on_leash;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::Shutdown;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, handshake};
use pingora_http::ResponseHeader;
use pingora_proxy::ProxyHttp;
use rand::RngExt;
use selvage_policy::refusal::{Caller, Refusal, render};
use selvage_policy::{Denial, Reason};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// One read of a request body, one write of a response.
pub const TRANSFER: Duration = Duration::from_secs(60);
/// What is left of a request body after the response is dropped for so long, then the connection is closed.
const DRAIN_BODY: Duration = Duration::from_secs(10);
/// The HTTP/2 preface and first SETTINGS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// An HTTP/2 connection without streams.
pub const IDLE_H2: Duration = Duration::from_secs(300);
/// For a response to begin whose client has ended its side.
pub const ABANDONED: Duration = Duration::from_secs(60);
/// After GOAWAY, and for streams to notice that their connection is gone.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Streams of one connection at once.
pub const MAX_STREAMS: u32 = 100;
/// Window of a stream, and of a connection in streams' windows: never equal, or one slow stream stalls all.
const WINDOW: u32 = 256 * 1024;
const WINDOWS: u32 = 16;
/// Streams that were refused for their form, over the life of a connection; also resets that we had to send.
const MAX_REFUSED: usize = 32;
/// Streams reset by the client before they were even accepted (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Serves HTTP/1.0 and HTTP/1.1 until the connection ends.
pub async fn http1<D>(worker: &Worker<D>, conn: Conn)
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    let Some(connection) = conn.connection().cloned() else { return };
    let closing = &connection.closing;
    let mut conn = Box::new(conn);
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        let denial = match conn.head(closing).await {
            Head::Complete => None,
            // A peer that does not even take our goodbye is not waited for.
            Head::Ended => return drop(timeout(AFTERMATH, Shutdown::shutdown(&mut *conn)).await),
            Head::Late => Some(Denial::of(Reason::RequestTimeout, "the request head did not arrive in time")),
            Head::TooLarge => Some(Denial::of(Reason::HeadersTooLarge, "the request head has more than 32 KiB or 100 fields")),
            Head::LongTarget => Some(Denial::of(Reason::TargetTooLong, "the request line has more than 16 KiB")),
            Head::Malformed => Some(Denial::of(Reason::BadRequest, "this is no HTTP request")),
        };
        if let Some(denial) = denial {
            worker.shared.refused(&connection, &denial);
            let refusal = render(&denial, Caller::Http, &request_id());
            return conn.answer(&written(&refusal)).await;
        }
        let mut session = ServerSession::new_http1(conn);
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(super::conn::IDLE.as_secs())),
        }
        session.set_read_timeout(Some(worker.shared.transfer));
        session.set_write_timeout(Some(worker.shared.transfer));
        session.set_total_drain_timeout(Some(DRAIN_BODY));
        let request = worker.shared.begin();
        let reused = on_leash(worker.shared.abandoned, worker.proxy.process_new_http(session, worker.ending(closing))).await;
        drop(request);
        let Some((stream, persistent)) = reused.map(|reused| reused.consume()) else { return };
        let Ok(same) = stream.into_any().downcast::<Conn>() else { return };
        (conn, settings) = (same, persistent);
    }
}

/// Serves HTTP/2 until the connection ends. Each stream is a task that ends with it at the latest.
pub async fn http2<D>(worker: &Arc<Worker<D>>, conn: Conn)
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    let Some(connection) = conn.connection().cloned() else { return };
    let digest = Arc::new(conn.digest());
    let Ok(Ok(mut h2)) = timeout(HANDSHAKE, handshake(Box::new(conn), Some(options()))).await else { return };
    let mut streams = JoinSet::new();
    let mut refused = 0;
    let mut going_away = false;
    let idle = sleep_until(Instant::now() + worker.shared.idle_h2);
    tokio::pin!(idle);
    // Once for the connection: made anew it would be entered into a shared list at every turn.
    let drained = connection.closing.drained();
    tokio::pin!(drained);
    loop {
        tokio::select! {
            biased;
            () = &mut drained, if !going_away => {
                h2.graceful_shutdown();
                going_away = true;
                idle.as_mut().reset(Instant::now() + AFTERMATH);
            }
            accepted = HttpSession::from_h2_conn(&mut h2, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    refused += usize::from(is_too_large(session.req_header()));
                    let (worker, connection) = (worker.clone(), connection.clone());
                    streams.spawn(async move { stream(&worker, &connection, session).await });
                }
                Ok(Some(H2Accept::Rejected)) => refused += 1,
                Ok(None) | Err(_) => break,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {
                let left = if going_away { AFTERMATH } else { worker.shared.idle_h2 };
                idle.as_mut().reset(Instant::now() + left);
            }
            () = &mut idle, if streams.is_empty() => {
                if going_away {
                    return;
                }
                h2.graceful_shutdown();
                going_away = true;
                idle.as_mut().reset(Instant::now() + AFTERMATH);
            }
        }
        if refused >= MAX_REFUSED {
            h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            let _ = timeout(AFTERMATH, async { while let Ok(Some(_)) = HttpSession::from_h2_conn(&mut h2, digest.clone()).await {} }).await;
            break;
        }
    }
    // The streams see that their connection is gone and write their log lines; whichever does not is aborted with the set.
    let _ = timeout(AFTERMATH, async { while streams.join_next().await.is_some() {} }).await;
}

async fn stream<D>(worker: &Worker<D>, connection: &Connection, session: HttpSession)
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    let denial = is_too_large(session.req_header())
        .then(|| Denial::of(Reason::HeadersTooLarge, "the request head has more than 32 KiB or 100 fields"));
    let caller = Caller::of(&session.req_header().headers);
    let mut session = ServerSession::new_http2(session);
    session.set_write_timeout(Some(worker.shared.transfer));
    session.set_total_drain_timeout(Some(DRAIN_BODY));
    if let Some(denial) = denial {
        worker.shared.refused(connection, &denial);
        let refusal = render(&denial, caller, &request_id());
        if let Ok(head) = response(&refusal) {
            // The client may have reset the stream; there is nobody to tell then.
            let _ = session.write_error_response(head, refusal.body).await;
        }
        return;
    }
    let _request = worker.shared.begin();
    on_leash(worker.shared.abandoned, worker.proxy.process_new_http(session, worker.ending(&connection.closing))).await;
}

/// Bounds of a connection. h2 has no cap on the number of fields before it decodes them; [`is_too_large`] refuses right after, and the
/// list's size bounds what one stream can make us hold until then.
fn options() -> H2Options {
    let mut options = H2Options::new();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * WINDOWS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_REFUSED))
        .max_send_buffer_size(WINDOW as usize);
    options
}

fn is_too_large(head: &pingora_http::RequestHeader) -> bool {
    head.headers.len() > MAX_FIELDS
}

/// A name for a request that no driver saw.
fn request_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

fn response(refusal: &Refusal) -> pingora_core::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(refusal.status, Some(refusal.fields.len() + 1))?;
    for (name, value) in &refusal.fields {
        head.insert_header(*name, value.as_str())?;
    }
    head.insert_header("content-length", refusal.body.len().to_string())?;
    Ok(head)
}

/// A refusal as HTTP/1.1 bytes; the connection ends with it.
fn written(refusal: &Refusal) -> Vec<u8> {
    let phrase = http::StatusCode::from_u16(refusal.status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {phrase}\r\n", refusal.status);
    for (name, value) in &refusal.fields {
        let clean: String = value.chars().filter(|c| !c.is_control()).collect();
        let _ = write!(text, "{name}: {clean}\r\n");
    }
    let _ = write!(text, "content-length: {}\r\nconnection: close\r\n\r\n", refusal.body.len());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&refusal.body);
    bytes
}
