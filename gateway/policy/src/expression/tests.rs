//! What expressions give, what is refused when they are compiled, and what they may cost.

use super::{Expression, MAX_LENGTH, Outcome};
use crate::sample::Sample;
use std::time::{Duration, Instant};

fn request() -> Sample {
    Sample::get("/orders/7?page=2&tag=a&tag=b&q=a+b%21")
        .method("POST")
        .host("shop.example.com")
        .from("shop/storefront")
        .address("192.0.2.7")
        .header("x-client", "alice")
        .header("x-role", "admin")
        .header("x-role", "user")
        .header("x-odd", b"caf\xe9")
}

fn test(text: &str, sample: &Sample) -> Outcome<bool> {
    let expression = Expression::compile(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    sample.with(|exchange| expression.test(exchange))
}

#[test]
fn conditions_over_an_http_request() {
    let table = [
        (r#"request.method == "POST""#, true),
        (r#"request.method == "post""#, false),
        (r#"request.scheme == "https""#, true),
        (r#"request.host == "shop.example.com""#, true),
        (r#"request.host.endsWith(".example.com")"#, true),
        (r#"request.path == "/orders/7""#, true),
        (r#"request.path.startsWith("/orders/")"#, true),
        (r#"request.path.matches("^/orders/[0-9]+$")"#, true),
        (r#"matches(request.path, "^/x")"#, false),
        (r#"request.path.contains("..")"#, false),
        (r#"request.path.contains("ord")"#, true),
        (r#"size(request.path) == request.path.size()"#, true),
        (r#"string(destination.port) == "8080""#, true),
        (r#"double(request.query.page) == 2.0"#, true),
        (r#"request.query.page == "2""#, true),
        (r#"request.query["page"] == "2""#, true),
        (r#"request.query.tag == "a, b""#, true),
        (r#"request.query.q == "a b!""#, true),
        (r#"has(request.query.nothing)"#, false),
        (r#"request.rawQuery.startsWith("page=2&")"#, true),
        (r#"int(request.query.page) + 1 == 3"#, true),
        (r#"request.headers["x-client"] == "alice""#, true),
        (r#"request.headers["X-Client"] == "alice""#, true),
        (r#"request["headers"]["x-client"] == "alice""#, true),
        (r#"request.headers["x-role"] == "admin, user""#, true),
        (r#"request.headers["x-odd"] == "café""#, false),
        (r#""x-client" in request.headers"#, true),
        (r#""X-CLIENT" in request.headers"#, true),
        (r#""x-nothing" in request.headers"#, false),
        (r#"has(request.headers.host)"#, false),
        (r#"size(request.headers) == 3"#, true),
        (r#"request.headers.exists(name, name.startsWith("x-"))"#, true),
        (r#"request.headers.all(name, request.headers[name] != "mallory")"#, true),
        (r#"request.headers["x-client"] in ["alice", "bob"]"#, true),
        (r#"!(request.headers["x-client"] in ["carol"])"#, true),
        (r#"has(request.headers.nothing) && request.headers.nothing == "1""#, false),
        (r#"source.address == "192.0.2.7""#, true),
        (r#"source.serviceAccount == "storefront" && source.namespace == "shop""#, true),
        (r#"source.principal == principal.id"#, true),
        (r#"destination.port == 8080"#, true),
        (r#"destination.port in [80, 443]"#, false),
        (r#"destination.address == "10.0.0.1""#, true),
        (r#"principal.id == "spiffe://cluster.local/ns/shop/sa/storefront""#, true),
        (r#"principal.trustDomain == "cluster.local""#, true),
        (r#"has(principal.id)"#, true),
        (r#"principal != null"#, true),
        (r#"null == principal"#, false),
        (r#"request == null"#, false),
        (r#"request.headers.nothing == "1" || request.method == "POST""#, true),
        (r#"request.headers.nothing == "1" && request.method == "GET""#, false),
        (r#"request.method == "GET" ? request.headers.nothing == "1" : true"#, true),
    ];
    for (text, expected) in table {
        assert_eq!(test(text, &request()), Outcome::Value(expected), "{text}");
    }
}

#[test]
fn a_fact_that_is_not_there_is_absent() {
    let anonymous = Sample::get("/");
    let connection = Sample::tcp().from("shop/storefront");
    let table = [
        (r#"request.headers["x-client"] == "alice""#, &anonymous),
        (r#"request.headers["x-client"] != "alice""#, &anonymous),
        (r#"!(request.headers["x-client"] == "alice")"#, &anonymous),
        (r#"request.headers["x-client"] == "alice" && request.method == "GET""#, &anonymous),
        (r#"request.headers["x-client"] == "alice" || request.method == "POST""#, &anonymous),
        (r#"request.query.page == "1""#, &anonymous),
        (r#"request.rawQuery == """#, &anonymous),
        (r#"principal.id == "spiffe://a/ns/b/sa/c""#, &anonymous),
        (r#"principal.namespace != "shop""#, &anonymous),
        (r#"source.serviceAccount == "a""#, &anonymous),
        (r#"request.method == "GET""#, &connection),
        (r#"request.headers["x"] == "1""#, &connection),
        (r#"has(request.headers.host)"#, &connection),
        (r#""x" in request.headers"#, &connection),
    ];
    for (text, sample) in table {
        assert_eq!(test(text, sample), Outcome::Absent, "{text}");
    }
}

#[test]
fn presence_can_be_asked_for() {
    let (anonymous, connection) = (Sample::get("/"), Sample::tcp());
    for text in ["has(principal.id)", "principal != null", "has(source.serviceAccount)", "has(request.rawQuery)"] {
        assert_eq!(test(text, &anonymous), Outcome::Value(false), "{text}");
    }
    for text in ["request == null", "null == request", "principal == null", "!has(request.method)"] {
        assert_eq!(test(text, &connection), Outcome::Value(true), "{text}");
    }
}

#[test]
fn other_failures_are_errors() {
    let table = [
        r#"request.path"#,
        "1",
        "null",
        r#"request.path == "/orders/7" && 1"#,
        "destination.port / 0 == 1",
        r#"int("x") == 1"#,
        "request.path > 1",
        "principal",
    ];
    for text in table {
        assert!(matches!(test(text, &request()), Outcome::Error(_)), "{text}: {:?}", test(text, &request()));
    }
}

/// Every function that is offered is one of the language, in each of the ways it is offered: otherwise it would be an absent fact.
#[test]
fn a_wrong_kind_of_value_is_an_error_and_not_an_absent_fact() {
    let table = [
        "size(destination.port) == 1",
        "destination.port.size() == 1",
        "destination.port.contains('1')",
        "request.path.contains(1)",
        "destination.port.startsWith('1')",
        "destination.port.endsWith('1')",
        "matches(destination.port, '1')",
        "destination.port.matches('1')",
        "int(request.headers) == 1",
        "double(request.headers) == 1.0",
        "string(request.headers) == ''",
    ];
    for text in table {
        assert!(matches!(test(text, &request()), Outcome::Error(_)), "{text}: {:?}", test(text, &request()));
    }
}

#[test]
fn keys_are_printed() {
    let table = [
        (r#"request.headers["x-client"]"#, Outcome::Value("alice".to_string())),
        ("destination.port", Outcome::Value("8080".into())),
        ("destination.port > 1024", Outcome::Value("true".into())),
        (r#"request.host + "/" + request.method"#, Outcome::Value("shop.example.com/POST".into())),
        ("principal.id", Outcome::Value("spiffe://cluster.local/ns/shop/sa/storefront".into())),
        (r#"has(request.headers.key) ? request.headers.key : source.address"#, Outcome::Value("192.0.2.7".into())),
        (r#"request.headers["x-nothing"]"#, Outcome::Absent),
    ];
    for (text, expected) in table {
        let expression = Expression::compile(text).unwrap();
        assert_eq!(request().with(|exchange| expression.text(exchange)), expected, "{text}");
    }
    for text in ["null", "[1]", "request.headers", "principal"] {
        let expression = Expression::compile(text).unwrap();
        assert!(matches!(request().with(|exchange| expression.text(exchange)), Outcome::Error(_)), "{text}");
    }
}

#[test]
fn what_cannot_be_meant_or_bounded_is_refused() {
    let deep = format!("{}true{}", "(".repeat(200), ")".repeat(200));
    let selects = format!("request{}", ".path".repeat(400));
    let sums = format!("1{} == 1", " + 1".repeat(400));
    let long = format!("\"{}\" == \"\"", "a".repeat(MAX_LENGTH));
    let table = [
        ("", "empty"),
        ("  ", "empty"),
        ("request.method ==", "not a CEL expression"),
        ("user.name == 'a'", "unknown variable `user`; known variables: request, source, destination, principal"),
        ("request.verb == 'GET'", "`request` has no field `verb`; known fields: method, scheme, host, path, query, rawQuery, headers"),
        ("request['verb'] == 'GET'", "no field `verb`"),
        ("has(principal.name)", "`principal` has no field `name`"),
        ("request.path.lower() == 'a'", "unknown function `lower` (known functions: size, contains"),
        ("now() > 1", "unknown function `now`"),
        ("type(request) == map", "unknown"),
        (r#"contains(request.path, "/admin")"#, "`contains` is not called like this; write `x.contains(y)`"),
        (r#"startsWith(request.path, "/admin")"#, "write `x.startsWith(y)`"),
        (r#"endsWith(request.path, "/admin")"#, "write `x.endsWith(y)`"),
        ("request.path.int() == 1", "`int` is not called like this; write `int(x)`"),
        ("request.path.double() == 1.0", "write `double(x)`"),
        ("request.path.string() == ''", "write `string(x)`"),
        ("request.path.contains()", "write `x.contains(y)`"),
        ("request.path.startsWith('/a', '/b')", "write `x.startsWith(y)`"),
        ("int() == 1", "write `int(x)`"),
        ("int('1', 10) == 1", "write `int(x)`"),
        ("request.path.size('a') == 1", "write `size(x)` or `x.size()`"),
        ("size() == 1", "write `size(x)` or `x.size()`"),
        ("matches('a')", "write `matches(x, y)` or `x.matches(y)`"),
        ("request.path.matches('a', 'b')", "write `matches(x, y)` or `x.matches(y)`"),
        ("[1].exists(x, string(x).contains())", "write `x.contains(y)`"),
        ("[1, 2].map(x, x * 2).size() == 2", "`exists` or `all`"),
        ("[1, 2].filter(x, x > 1).size() == 1", "`exists` or `all`"),
        ("[1, 2].exists_one(x, x > 1)", "`exists` or `all`"),
        ("[1].exists(x, [2].exists(y, x == y))", "a macro inside a macro"),
        ("[1].exists(x, x + 1 == 2)", "`+` is not allowed inside"),
        ("request.path.matches(request.headers.pattern)", "literal pattern"),
        ("request.path.matches('(')", "not a regular expression"),
        ("request.path.matches('[a-z]{1000}{1000}')", "not a regular expression"),
        ("request.?path == ''", "not a CEL expression"),
        ("Thing{a: 1} == Thing{a: 1}", "named types are not offered"),
        (deep.as_str(), ""),
        (selects.as_str(), "nested more than"),
        (sums.as_str(), "nested more than"),
        (long.as_str(), "at most 4096"),
    ];
    for (text, expected) in table {
        let problem = Expression::compile(text).map(|expression| expression.text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

/// The longest loops that can be written, over the most items that a request has.
#[test]
fn an_expression_costs_little() {
    let items = (0..900).map(|number| format!("{}", number % 10)).collect::<Vec<_>>().join(",");
    let text = format!("[{items}].all(x, request.headers.size() >= x && request.path.matches('^(a|b|c)*$') || true)");
    let expression = Expression::compile(&text).unwrap();
    let sample = (0..100).fold(Sample::get("/"), |sample, number| sample.header(&format!("x-{number}"), "v"));
    let start = Instant::now();
    assert_eq!(sample.with(|exchange| expression.test(exchange)), Outcome::Value(true));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn the_text_is_kept() {
    let expression = Expression::compile("request.path.matches('^/a')").unwrap();
    assert_eq!(expression.as_str(), "request.path.matches('^/a')");
}
/// Neither parsing nor evaluating may overflow a small stack, which would end the process.
#[test]
fn deep_expressions_harm_no_small_stack() {
    let around = |open: &str, core: &str, close: &str, times: usize| format!("{}{core}{}", open.repeat(times), close.repeat(times));
    let run = move || {
        for times in [10, 30, 38, 60, 300, 1000] {
            let texts = [
                around("(", "true", ")", times),
                around("[", "", "]", times),
                around("{1:", "1", "}", times),
                around("int(", "1", ")", times),
                around("!", "true", "", times),
                around("-", "1", "", times),
                around("true ? 1 : ", "1", "", times),
                around("", "1", " + 1", times),
                around("", "true", " || true", times),
                around("", "request", ".headers", times),
                around("", "'a'", ".size()", times),
            ];
            for text in texts {
                if let Ok(expression) = Expression::compile(&text) {
                    request().with(|exchange| expression.test(exchange));
                    assert!(times < 60 || text.starts_with(['!', '-']) || text.contains("||"), "{text}");
                }
            }
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}
