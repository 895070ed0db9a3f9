//! Malformed, ambiguous and forged requests, by class. `§` in a vector is its number, so that what arrives can be told apart.

/// What must become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing of it reaches the backend: 4xx, 5xx or the end of the connection.
    Refused,
    /// It reaches the backend once.
    Passed,
    /// Either.
    Safe,
}

/// One request, as bytes.
#[derive(Clone, Debug)]
pub struct Vector {
    pub class: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
    pub want: Want,
}

use Want::{Passed, Refused, Safe};

/// What would be seen if framing were misread.
const HIDDEN: &str = "GET /smuggled-§ HTTP/1.1\r\nHost: a.example\r\n\r\n";

struct Class {
    name: &'static str,
    all: Vec<Vector>,
}

impl Class {
    fn new(name: &'static str) -> Self {
        Self { name, all: Vec::new() }
    }

    fn raw(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, want: Want) {
        self.all.push(Vector { class: self.name, name: name.into(), bytes: bytes.as_ref().to_vec(), want });
    }

    /// A POST with these lines, then this body.
    fn post(&mut self, lines: &str, body: &str, want: Want) {
        self.raw(lines.escape_debug().to_string(), format!("POST /v-§ HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n{body}"), want);
    }

    /// A GET with these lines.
    fn get(&mut self, lines: &str, want: Want) {
        self.raw(lines.escape_debug().to_string(), format!("GET /v-§ HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n"), want);
    }

    /// A request line, with a Host.
    fn line(&mut self, line: &str, want: Want) {
        self.raw(line.escape_debug().to_string(), format!("{line}\r\nHost: a.example\r\n\r\n"), want);
    }
}

/// Every vector.
pub fn vectors() -> Vec<Vector> {
    let classes = [
        lengths(),
        codings(),
        both(),
        old_versions(),
        chunks(),
        lines(),
        hosts(),
        paths(),
        fields(),
        sizes(),
        hops(),
        forgeries(),
        expectations(),
    ];
    classes.into_iter().flat_map(|class| class.all).collect()
}

fn lengths() -> Class {
    let mut class = Class::new("length");
    class.post("Content-Length: 5", "hello", Passed);
    class.post("content-length:5", "hello", Passed);
    class.post("Content-Length: \t5 ", "hello", Safe);
    class.post("Content-Length: 005", "hello", Safe);
    class.post("Content-Length: 0", "", Passed);
    for bad in [
        "5, 5",
        "5,5",
        "5,",
        ",5",
        "5, 6",
        "5 5",
        "+5",
        "-5",
        "0x5",
        "5.0",
        "5e0",
        "5;x",
        "",
        "99999999999999999999",
        "18446744073709551621",
        "\u{665}",
        "5\u{b}",
        "5\0",
        "five",
    ] {
        class.post(&format!("Content-Length: {bad}"), &format!("hello{HIDDEN}"), Refused);
    }
    class.post("Content-Length: 5\r\nContent-Length: 5", &format!("hello{HIDDEN}"), Refused);
    class.post("Content-Length: 5\r\nContent-Length: 0", &format!("hello{HIDDEN}"), Refused);
    class.post("Content-Length: 0\r\ncontent-length: 5", &format!("hello{HIDDEN}"), Refused);
    class.post("Content-Length : 5", &format!("hello{HIDDEN}"), Refused);
    class.post("Content-Length\t: 5", "hello", Refused);
    class.post("Content-Length:\r\n 5", "hello", Refused);
    class.post("X: y\r\n Content-Length: 5", "", Refused);
    class.post("Content_Length: 5", "", Safe);
    class.get("Content-Length: 5\r\n\r\nhello", Safe);
    class
}

fn codings() -> Class {
    let mut class = Class::new("coding");
    let body = format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}");
    class.post("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", Passed);
    class.post("transfer-encoding:chunked", "5\r\nhello\r\n0\r\n\r\n", Passed);
    class.post("Transfer-Encoding: Chunked", "5\r\nhello\r\n0\r\n\r\n", Safe);
    for bad in [
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked;q=1",
        "chunked\u{b}",
        "\u{c}chunked",
        "chunked\0",
        "",
        "cow",
        "chun ked",
    ] {
        class.post(&format!("Transfer-Encoding: {bad}"), &body, Refused);
    }
    class.post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &body, Refused);
    class.post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", &body, Refused);
    class.post("Transfer-Encoding: chunked\r\ntransfer-encoding: cow", &body, Refused);
    class.post("Transfer-Encoding : chunked", &body, Refused);
    class.post("Transfer-Encoding:\r\n chunked", &body, Refused);
    class.post("X: y\r\n Transfer-Encoding: chunked", "", Refused);
    class.post("X: y\nTransfer-Encoding: chunked", "0\r\n\r\n", Safe);
    class.post("X: y\rTransfer-Encoding: chunked", "", Refused);
    class.post("X: \nTransfer-Encoding: chunked\nY: z", "0\r\n\r\n", Safe);
    class
}

fn both() -> Class {
    let mut class = Class::new("both");
    for coding in ["chunked", "Chunked", "chunked, identity", "cow", " chunked", "\tchunked"] {
        for (first, second) in [("Content-Length: 6", "Transfer-Encoding: "), ("Content-Length: 200", "Transfer-Encoding: ")] {
            let body = format!("0\r\n\r\n{HIDDEN}");
            class.post(&format!("{first}\r\n{second}{coding}"), &body, Refused);
            class.post(&format!("{second}{coding}\r\n{first}"), &body, Refused);
        }
    }
    class.post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 40", &format!("0\r\n\r\n{HIDDEN}"), Refused);
    class.post("content-length\t: 4\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{HIDDEN}"), Refused);
    class
}

fn old_versions() -> Class {
    let mut class = Class::new("version");
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    let with = |version: &str, lines: &str, body: &str| format!("POST /v-§ {version}\r\nHost: a.example\r\n{lines}\r\n\r\n{body}");
    class.raw("1.0 with coding", with("HTTP/1.0", "Transfer-Encoding: chunked", &chunks), Refused);
    class.raw("1.0 with coding and keep-alive", with("HTTP/1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked", &chunks), Refused);
    class.raw("1.0 with both", with("HTTP/1.0", "Content-Length: 3\r\nTransfer-Encoding: chunked", &chunks), Refused);
    class.raw("1.0 with length", with("HTTP/1.0", "Content-Length: 5", "hello"), Passed);
    class.raw("1.0 without length hides nothing", with("HTTP/1.0", "Connection: close", HIDDEN), Safe);
    class.raw("1.0 without host", "GET /v-§ HTTP/1.0\r\n\r\n", Safe);
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.1.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "http/1.1",
        "HTTP/1.1x",
        "HTP/1.1",
        "HTTP/ 1.1",
        "HTTP/+1.1",
        "1.1",
    ] {
        class.raw(version, format!("GET /v-§ {version}\r\nHost: a.example\r\n\r\n"), Refused);
    }
    class.raw("0.9", "GET /v-§\r\n\r\n", Refused);
    class.raw("0.9 with LF", "GET /v-§\n", Refused);
    class
}

fn chunks() -> Class {
    let mut class = Class::new("chunks");
    let mut chunked = |body: String, want| class.post("Transfer-Encoding: chunked", &body, want);
    for good in [
        "5\r\nhello\r\n0\r\n\r\n",
        "00000005\r\nhello\r\n0\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
        "a\r\n0123456789\r\n0\r\n\r\n",
        "0\r\n\r\n",
    ] {
        chunked(good.into(), Passed);
    }
    for either in [
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\"\r\nhello\r\n0;x\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t;a\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n000\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;\rb\r\nhello\r\n0\r\n\r\n",
        "5\rX\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5;a\n\nGET /smuggled-§ HTTP/1.1\r\nHost: a\r\n\r\n",
        "2;\n45\r\nhi\r\n0\r\n\r\n",
    ] {
        chunked(format!("{either}{HIDDEN}"), Safe);
    }
    for bad in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
    ] {
        // The head may be on its way when the fault is found: then the backend's connection ends without a request.
        chunked(format!("{bad}{HIDDEN}"), Safe);
    }
    chunked(format!("5;{}\r\nhello\r\n0\r\n\r\n{HIDDEN}", "x".repeat(64 * 1024)), Safe);
    chunked(format!("{}5\r\nhello\r\n0\r\n\r\n{HIDDEN}", "0".repeat(1000)), Safe);
    class
}

fn lines() -> Class {
    let mut class = Class::new("line");
    class.line("GET /v-§ HTTP/1.1", Passed);
    class.line("\r\nGET /v-§ HTTP/1.1", Safe);
    class.line("\nGET /v-§ HTTP/1.1", Safe);
    class.line("GET  /v-§ HTTP/1.1", Safe);
    class.line("GET /v-§  HTTP/1.1", Safe);
    class.line("GET /v-§ HTTP/1.1 ", Safe);
    for bad in [
        " GET /v-§ HTTP/1.1",
        "\tGET /v-§ HTTP/1.1",
        "GET\t/v-§\tHTTP/1.1",
        "GET /v-§\tHTTP/1.1",
        "GET HTTP/1.1",
        "GET /v-§\u{b}x HTTP/1.1",
        "GET /v-§\0x HTTP/1.1",
        "GET /v-§\u{1}x HTTP/1.1",
        "GET /v-§\u{7f}x HTTP/1.1",
        "GET /v-§\rx HTTP/1.1",
        "GET /v-§\\x HTTP/1.1",
        "GET v-§ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a.example:80 HTTP/1.1",
        "GET ?v-§ HTTP/1.1",
        "GET http:///v-§ HTTP/1.1",
        "GET http:/v-§ HTTP/1.1",
        "GET ftp://a.example/v-§ HTTP/1.1",
        "GET http://user@a.example/v-§ HTTP/1.1",
        "GET http://b.example/v-§ HTTP/1.1",
        "GET http://a.example:99999/v-§ HTTP/1.1",
        "CONNECT a.example:443 HTTP/1.1",
        "CONNECT /v-§ HTTP/1.1",
        "G@T /v-§ HTTP/1.1",
        "GE(T /v-§ HTTP/1.1",
        "G\u{e9}T /v-§ HTTP/1.1",
        "GET/v-§ HTTP/1.1",
        "/v-§ HTTP/1.1",
        "GET /v-§ HTTP/1.1 x",
        "GET  HTTP/1.1",
        ":GET /v-§ HTTP/1.1",
    ] {
        class.line(bad, Refused);
    }
    class.line("GET http://a.example/v-§ HTTP/1.1", Passed);
    class.line("GET HTTP://A.example/v-§?x=1 HTTP/1.1", Safe);
    class.line("GET https://a.example/v-§ HTTP/1.1", Safe);
    class.line("GET http://a.example?v-§ HTTP/1.1", Safe);
    // Sent on encoded, or without its fragment: one reading each.
    class.line("GET /v-§ x HTTP/1.1", Safe);
    class.line("GET /v-§#x HTTP/1.1", Safe);
    class.line("GET http://a.example/v-§#x HTTP/1.1", Safe);
    class.line("OPTIONS * HTTP/1.1", Safe);
    class.line("get /v-§ HTTP/1.1", Passed);
    class.line("M-SEARCH /v-§ HTTP/1.1", Passed);
    class.line("TRACE /v-§ HTTP/1.1", Safe);
    class.line(&format!("{} /v-§ HTTP/1.1", "X".repeat(2000)), Safe);
    class.line("GET /v-§\u{e9} HTTP/1.1", Safe);
    class.raw("PRI without its end", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Refused);
    class.raw("bytes above 127 in the target", b"GET /v-\xc2\xa7\xff\xfe HTTP/1.1\r\nHost: a.example\r\n\r\n", Safe);
    class.raw("LF alone", "GET /v-§ HTTP/1.1\nHost: a.example\n\n", Safe);
    class.raw("CR alone", "GET /v-§ HTTP/1.1\rHost: a.example\r\r", Refused);
    class
}

fn hosts() -> Class {
    let mut class = Class::new("host");
    let mut with = |host: &str, want| class.raw(host.escape_debug().to_string(), format!("GET /v-§ HTTP/1.1\r\n{host}\r\n\r\n"), want);
    with("Host: a.example", Passed);
    with("Host: A.Example.:8080", Passed);
    with("Host: [::1]:80", Passed);
    with("Host: 127.0.0.1", Passed);
    for bad in [
        "Accept: */*",
        "Host:",
        "Host: ",
        "Host: local host",
        "Host: a,b",
        "Host: a/evil",
        "Host: a?x",
        "Host: a#x",
        "Host: [::1",
        "Host: ::1]",
        "Host: [::1]x",
        "Host: [g::1]",
        "Host: a:99999",
        "Host: a:80a",
        "Host: a:-1",
        "Host: a:0",
        "Host: user@a.example",
        "Host: a\\b",
        "Host: a\u{1}b",
        "Host: a\0b",
        "Host: a%00b",
        "Host: a%2eb",
        "Host: \u{e9}.example",
        "Host: .",
        "Host: ..",
        "Host: a..b",
        "Host: .a",
        "Host: a:80:80",
        "Host: http://a",
        "Host: \"a\"",
        "Host: a;b",
        "Host: a\tb",
        "Host: *",
        "Host : a.example",
        "Host\t: a.example",
        " Host: a.example",
        "Host: a.example\r\nHost: a.example",
        "Host: a.example\r\nHost: b.example",
        "Host: a.example\r\nhost: a.example",
        "Host: a.example\r\n b.example",
        "Host:\r\n a.example",
    ] {
        with(bad, Refused);
    }
    with(&format!("Host: {}", "a".repeat(300)), Refused);
    with(&format!("Host: {}.example", "a".repeat(64)), Refused);
    with("Host: a:", Safe);
    class
}

fn paths() -> Class {
    let mut class = Class::new("path");
    let mut with = |path: &str, want| class.line(&format!("GET {path} HTTP/1.1"), want);
    for refused in [
        "/x/..;/v-§",
        "/x/..;a=b/v-§",
        "/.;/v-§",
        "/x%2f..%2fv-§",
        "/x%2F..%2Fv-§",
        "/x%5c..%5cv-§",
        "/v-§%00",
        "/v-§%0d%0aX:%20y",
        "/v-§%0a",
        "/v-§%zz",
        "/v-§%",
        "/v-§%2",
        "/../v-§",
        "/a/../../v-§",
        "/%2e%2e/v-§",
        "/..%2fv-§",
        "/v-§%7f",
        "/v-§%1f",
        "/..%3b/v-§",
        "/v-§/%2f",
        "/v-§/%5C",
    ] {
        with(refused, Refused);
    }
    for passed in [
        "//v-§",
        "/./v-§",
        "/x/../v-§",
        "/x/%2e%2e/v-§",
        "/x/%2E./v-§",
        "/%76-§",
        "/v-§?a=%2f..%2f",
        "/v-§?//",
        "/v-§;a=b",
        "/v-§/...",
        "/v-§/%25",
        "/v-§/%252f",
        "/v-§/%E2%82%AC",
        "/v-§/%c3%28",
        "///v-§///x",
        "/v-§/~!$&'()*+,;=:@-._",
        "/v-§?",
        "/v-§?a?b",
    ] {
        with(passed, Passed);
    }
    for either in ["/v-§\"<>", "/v-§|^`{}", "/v-§?a=\"<>|^`{}", "/v-§?a#b"] {
        with(either, Safe);
    }
    class
}

fn fields() -> Class {
    let mut class = Class::new("field");
    for bad in [
        "X Y: 1",
        "X\t: 1",
        "X : 1",
        ": 1",
        "NoColon",
        "X(: 1",
        "X/: 1",
        "X,: 1",
        "X\u{e9}: 1",
        "X\u{1}: 1",
        "X\0: 1",
        "\"X\": 1",
        "X: a\0b",
        "X: a\rb",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\u{1}b",
        "X: a\u{7f}b",
        "X: a\u{b}b",
        "X@: 1",
        "X[0]: 1",
    ] {
        class.get(bad, Refused);
    }
    class.raw("a fold before the first field", "GET /v-§ HTTP/1.1\r\n X: 1\r\nHost: a.example\r\n\r\n", Refused);
    class.raw("bytes above 127 in a value", b"GET /v-\xc2\xa7 HTTP/1.1\r\nHost: a.example\r\nX: \xe9\xff\r\n\r\n", Safe);
    class.raw("bytes above 127 in a name", b"GET /v-\xc2\xa7 HTTP/1.1\r\nHost: a.example\r\n\xff: 1\r\n\r\n", Refused);
    for good in
        ["X:", "X: ", "X:1", "X:\t1\t", "X_Y: 1", "X.Y: 1", "!#$%&'*+-.^_`|~: 1", "X: a\tb", "X: 1\r\nX: 2", "Cookie: a=1\r\nCookie: b=2"]
    {
        class.get(good, Passed);
    }
    class.raw("LF in a value", "GET /v-§ HTTP/1.1\r\nHost: a.example\r\nX: a\nY: b\r\n\r\n", Safe);
    class
}

fn sizes() -> Class {
    let mut class = Class::new("size");
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1")).collect::<Vec<_>>().join("\r\n");
    for (count, want) in [(90, Passed), (150, Refused), (255, Refused), (300, Refused), (1000, Refused)] {
        class.raw(format!("{count} fields"), format!("GET /v-§ HTTP/1.1\r\nHost: a.example\r\n{}\r\n\r\n", many(count)), want);
    }
    for (kib, want) in [(8, Passed), (24, Passed), (40, Refused), (300, Refused), (2000, Refused)] {
        let value = "x".repeat(kib * 1024);
        class.raw(format!("a field of {kib} KiB"), format!("GET /v-§ HTTP/1.1\r\nHost: a.example\r\nX: {value}\r\n\r\n"), want);
        // A long target may be refused before the whole head would be.
        let want = if kib == 24 { Safe } else { want };
        class.raw(format!("a target of {kib} KiB"), format!("GET /v-§?{value} HTTP/1.1\r\nHost: a.example\r\n\r\n"), want);
    }
    class
}

fn hops() -> Class {
    let mut class = Class::new("hop");
    for nominated in [
        "x-user",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "traceparent",
        "selvage-principal",
        "close, x-user",
        "keep-alive, X-User , x-b",
        "x-user\r\nConnection: x-b",
    ] {
        class.get(&format!("Connection: {nominated}\r\nX-User: u\r\nX-B: b"), Safe);
    }
    for framing in ["host", "content-length", "transfer-encoding", "Host, Content-Length", "close, transfer-encoding"] {
        class.post(&format!("Connection: {framing}\r\nContent-Length: 5"), "hello", Safe);
    }
    class.get(&format!("Connection: {}", (0..50).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",")), Safe);
    for line in [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "TE: gzip",
        "Trailer: X-T",
        "Proxy-Authorization: Basic eDp5",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ] {
        class.get(line, Passed);
    }
    for upgrade in ["h2c", "websocket", "foo", "websocket, h2c", "HTTP/2.0", "TLS/1.3"] {
        class.get(&format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\nX: 1"), Safe);
    }
    class.get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", Safe);
    class.post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5", "hello", Safe);
    class.get("Connection: \u{1}", Refused);
    class.get("Connection: a b", Safe);
    class
}

fn forgeries() -> Class {
    let mut class = Class::new("forgery");
    for name in [
        "selvage-principal",
        "Selvage-Principal",
        "SELVAGE-PRINCIPAL",
        "selvage_principal",
        "Selvage_Principal",
        "selvage-attempt",
        "selvage-deadline",
        "selvage-user",
        "selvage-consumer",
        "selvage-origin",
        "selvage-anything",
        "selvage_user",
        "x-forwarded-for",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded_For",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "x-real-ip",
        "X_Real_IP",
        "forwarded",
        "Forwarded",
        "x-request-id",
    ] {
        class.get(&format!("{name}: forged"), Passed);
        class.get(&format!("{name}: forged\r\n{name}: forged2\r\nX: 1"), Passed);
    }
    class.get("Connection: close, x-forwarded-for\r\nX-Forwarded-For: forged", Safe);
    class
}

fn expectations() -> Class {
    let mut class = Class::new("expect");
    class.post("Expect: 100-continue\r\nContent-Length: 5", "hello", Passed);
    class.post("Expect: 100-CONTINUE\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", Safe);
    class.get("Expect: 100-continue", Safe);
    for bad in ["100-continue, x", "x", "100-continue\r\nExpect: x", "200-ok", ""] {
        class.post(&format!("Expect: {bad}\r\nContent-Length: 5"), "hello", Safe);
    }
    class.raw("an early answer, the body later", "POST /early-v-§ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", Safe);
    class.raw(
        "1.0 with expectation",
        "POST /v-§ HTTP/1.0\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        Safe,
    );
    class
}
