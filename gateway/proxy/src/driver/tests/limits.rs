//! The page of limits says what holds.

use crate::driver::Options;
use crate::net::{conn, detect, http, keepalive};
use crate::{l4, proxy::ProxyOptions};

#[test]
fn the_page_of_limits_says_what_holds() {
    let page = include_str!("../../../../../docs/operations/limits.md");
    let (options, proxy, kib) = (Options::default(), ProxyOptions::default(), |bytes: usize| bytes / 1024);
    assert_eq!((options.max_head, options.max_headers), (conn::MAX_HEAD, conn::MAX_FIELDS));
    for row in [
        format!("| request line, or `:path` | {} KiB |", kib(detect::MAX_LINE)),
        format!("| request head | {} KiB, {} fields |", kib(options.max_head), options.max_headers),
        format!("| time for a request head, from its first byte | {} s |", conn::HEAD.as_secs()),
        format!("| pace of a request body | {} B/s on the average, after {} s of grace |", options.body_rate, options.body_grace.as_secs()),
        format!("| one read of a request body, one write of a response | {} s |", http::TRANSFER.as_secs()),
        format!("| response whose client has ended its side | {} s until it begins |", proxy.abandoned.as_secs()),
        format!("| connections of a proxy, of one of its sockets | {}, {} |", proxy.max_connections, proxy.max_per_socket),
        format!("| idle HTTP/1.1 connection | {} s |", conn::IDLE.as_secs()),
        format!("| idle HTTP/2 connection | {} s |", proxy.idle_h2.as_secs()),
        format!("| streams of an HTTP/2 connection at once | {} |", http::MAX_STREAMS),
        format!("| silent TCP connection of any kind | probed after {} s |", keepalive::IDLE.as_secs()),
        format!("| silent opaque connection, WebSocket | {} s |", l4::IDLE.as_secs()),
        format!("for {} s.", proxy.linger.as_secs()),
        format!("says nothing for {} s somebody is reached", detect::DETECT.as_secs()),
    ] {
        assert!(page.contains(&row), "{row}");
    }
}
