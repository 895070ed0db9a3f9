//! What is called.

use super::*;
use selvage_policy::mesh::{DoubleSlash, Encoded};

pub fn methods_and_paths() -> Vec<Row> {
    let admin = || row("").deny(json!({ "to": [{ "paths": ["/admin/*"] }] }));
    let named = |name, row: Row| Row { name, ..row };
    vec![
        row("a method")
            .by_method()
            .allow(json!({ "to": [{ "methods": ["GET", "HEAD"] }] }))
            .get(By::Nobody, "/", PASS)
            .ask(By::Nobody, Call::new("POST", "/"), UNLISTED)
            .ask(By::Nobody, Call::new("DELETE", "/"), UNLISTED),
        row("a method denied")
            .by_method()
            .deny(json!({ "to": [{ "methods": ["DELETE", "PURGE"] }] }))
            .ask(By::Nobody, Call::new("PURGE", "/"), DENIED)
            .ask(By::Nobody, Call::new("purge", "/"), PASS)
            .get(By::Nobody, "/", PASS),
        row("an exact path")
            .allow(json!({ "to": [{ "paths": ["/health"] }] }))
            .get(By::Nobody, "/health", PASS)
            .get(By::Nobody, "/health/", UNLISTED)
            .get(By::Nobody, "/healthy", UNLISTED)
            .get(By::Nobody, "/health?full=1", PASS),
        row("everything below a path")
            .allow(json!({ "to": [{ "paths": ["/orders/*"] }] }))
            .get(By::Nobody, "/orders/17", PASS)
            .get(By::Nobody, "/orders", PASS)
            .get(By::Nobody, "/ordersx", UNLISTED),
        row("all paths").allow(json!({ "to": [{ "paths": ["/*"] }] })).get(By::Nobody, "/", PASS).get(By::Nobody, "/a/b", PASS),
        named("dots lead to the same place", admin().get(By::Nobody, "/public/../admin/x", DENIED).get(By::Nobody, "/./admin/x", DENIED)),
        named("encoded letters are letters", admin().get(By::Nobody, "/%61dmin/x", DENIED).get(By::Nobody, "/%61%64min", DENIED)),
        named(
            "encoded dots are dots",
            admin().get(By::Nobody, "/public/%2e%2e/admin/x", DENIED).get(By::Nobody, "/public/.%2E/admin", DENIED),
        ),
        named("two slashes are one", admin().get(By::Nobody, "//admin/x", DENIED).get(By::Nobody, "/admin//x", DENIED)),
        named("an encoded slash is refused", admin().get(By::Nobody, "/public%2f..%2fadmin/x", BAD).get(By::Nobody, "/admin%2Fx", BAD)),
        named("an encoded backslash is refused", admin().get(By::Nobody, "/public/..%5cadmin", BAD)),
        named(
            "dots with parameters are refused",
            admin().get(By::Nobody, "/public/..;/admin/x", BAD).get(By::Nobody, "/..;a=b/admin", BAD),
        ),
        named("a bad triplet is refused", admin().get(By::Nobody, "/adm%zzin", BAD).get(By::Nobody, "/admin%2", BAD)),
        named("an encoded NUL is refused", admin().get(By::Nobody, "/admin%00", BAD).get(By::Nobody, "/admin%0d%0a", BAD)),
        named("climbing above the root is refused", admin().get(By::Nobody, "/../admin", BAD).get(By::Nobody, "/a/../../admin", BAD)),
        named("parameters belong to their segment", admin().get(By::Nobody, "/admin;a=b/x", PASS).get(By::Nobody, "/admin/x;a=b", DENIED)),
        named("case matters in paths", admin().get(By::Nobody, "/ADMIN/x", PASS)),
        named("a query is no path", admin().get(By::Nobody, "/x?/admin/x", PASS).get(By::Nobody, "/x?a=/../admin/", PASS)),
        named("encoded slashes kept are opaque", admin())
            .mesh(|mesh| mesh.paths.encoded_slash = Encoded::Keep)
            .get(By::Nobody, "/public%2f..%2fadmin/x", PASS)
            .get(By::Nobody, "/admin/%2f", DENIED),
        named("two slashes kept are two", admin())
            .mesh(|mesh| mesh.paths.double_slash = DoubleSlash::Keep)
            .get(By::Nobody, "//admin/x", PASS)
            .get(By::Nobody, "/admin//x", DENIED),
        named("two slashes refused", admin()).mesh(|mesh| mesh.paths.double_slash = DoubleSlash::Refuse).get(By::Nobody, "//admin/x", BAD),
    ]
}

pub fn hosts() -> Vec<Row> {
    let at = |host: &str| Call::get("/").host(host);
    vec![
        row("a host")
            .allow(json!({ "to": [{ "hosts": ["orders.shop"] }] }))
            .ask(By::Nobody, at("orders.shop"), PASS)
            .ask(By::Nobody, at("ORDERS.Shop"), PASS)
            .ask(By::Nobody, at("orders.shop."), PASS)
            .ask(By::Nobody, at("orders.shop:8080"), PASS)
            .ask(By::Nobody, at("orders.shop:1"), PASS)
            .ask(By::Nobody, at("xorders.shop"), UNLISTED)
            .ask(By::Nobody, at("orders.shop.evil"), UNLISTED),
        row("a host of many")
            .allow(json!({ "to": [{ "hosts": ["*.example.com"] }] }))
            .ask(By::Nobody, at("a.example.com"), PASS)
            .ask(By::Nobody, at("a.b.example.com"), PASS)
            .ask(By::Nobody, at("example.com"), UNLISTED)
            .ask(By::Nobody, at("aexample.com"), UNLISTED),
        row("a host denied, however it is spelled")
            .deny(json!({ "to": [{ "hosts": ["internal.shop"] }] }))
            .ask(By::Nobody, at("INTERNAL.shop."), DENIED)
            .ask(By::Nobody, at("internal.shop:443"), DENIED)
            .ask(By::Nobody, at("[::1]"), PASS)
            .ask(WEB, at("Internal.Shop"), DENIED),
    ]
}

pub fn headers() -> Vec<Row> {
    let with = |fields: &[(&str, &str)]| fields.iter().fold(Call::get("/"), |call, (name, value)| call.header(name, value));
    vec![
        row("a field must be there")
            .allow(json!({ "to": [{ "headers": [{ "name": "X-Tenant" }] }] }))
            .ask(By::Nobody, with(&[("x-tenant", "a")]), PASS)
            .ask(By::Nobody, with(&[("X-TENANT", "")]), PASS)
            .ask(By::Nobody, with(&[]), UNLISTED),
        row("a field has a value")
            .allow(json!({ "to": [{ "headers": [{ "name": "x-tenant", "values": ["a", "b"] }] }] }))
            .ask(By::Nobody, with(&[("x-tenant", "b")]), PASS)
            .ask(By::Nobody, with(&[("x-tenant", "c")]), UNLISTED)
            .ask(By::Nobody, with(&[("x-tenant", "A")]), UNLISTED),
        row("an allowed value does not cover another line")
            .allow(json!({ "to": [{ "headers": [{ "name": "x-tenant", "values": ["a"] }] }] }))
            .ask(By::Nobody, with(&[("x-tenant", "a"), ("x-tenant", "a")]), PASS)
            .ask(By::Nobody, with(&[("x-tenant", "a"), ("x-tenant", "evil")]), UNLISTED)
            .ask(By::Nobody, with(&[("x-tenant", "evil"), ("x-tenant", "a")]), UNLISTED)
            .ask(By::Nobody, with(&[("x-tenant", "a, evil")]), UNLISTED),
        row("a denied value does not hide behind another line")
            .deny(json!({ "to": [{ "headers": [{ "name": "x-role", "values": ["evil"] }] }] }))
            .ask(By::Nobody, with(&[("x-role", "evil")]), DENIED)
            .ask(By::Nobody, with(&[("x-role", "a"), ("x-role", "evil")]), DENIED)
            .ask(By::Nobody, with(&[("x-role", "a,evil ,b")]), DENIED)
            .ask(By::Nobody, with(&[("X-Role", "evil")]), DENIED)
            .ask(By::Nobody, with(&[("x-role", "evil2")]), PASS)
            .ask(By::Nobody, with(&[]), PASS),
        row("several fields together")
            .allow(json!({ "to": [{ "headers": [{ "name": "x-a", "values": ["1"] }, { "name": "x-b" }] }] }))
            .ask(By::Nobody, with(&[("x-a", "1"), ("x-b", "2")]), PASS)
            .ask(By::Nobody, with(&[("x-a", "1")]), UNLISTED),
        row("our own names are not taken from outside")
            .allow(json!({ "to": [{ "headers": [{ "name": "selvage-principal" }] }] }))
            .ask(By::Nobody, with(&[("selvage-principal", "spiffe://cluster.local/ns/shop/sa/web")]), UNLISTED)
            .ask(WEB, with(&[("Selvage-Principal", "x")]), UNLISTED),
    ]
}

pub fn expressions() -> Vec<Row> {
    vec![
        row("CEL over the method and path")
            .by_method()
            .allow(json!({ "when": r#"request.method == "GET" && request.path.startsWith("/orders/")"# }))
            .get(By::Nobody, "/orders/1", PASS)
            .get(By::Nobody, "/%6frders/1", PASS)
            .ask(By::Nobody, Call::new("PUT", "/orders/1"), UNLISTED),
        row("CEL over the principal")
            .allow(json!({ "when": r#"principal.namespace == "jobs""# }))
            .get(BATCH, "/", PASS)
            .get(WEB, "/", UNLISTED)
            .get(By::Nobody, "/", UNLISTED),
        row("an absent fact denies").deny(json!({ "when": r#"principal.serviceAccount == "evil""# })).get(WEB, "/", PASS).get(
            By::Nobody,
            "/",
            DENIED,
        ),
        row("asking whether it is there is no use of it")
            .deny(json!({ "when": "principal != null && principal.namespace == \"jobs\"" }))
            .get(By::Nobody, "/", PASS)
            .get(BATCH, "/", DENIED),
        row("CEL over headers, lines joined")
            .allow(json!({ "when": r#"request.headers["x-a"] == "1, 2""# }))
            .ask(By::Nobody, Call::get("/").header("x-a", "1").header("x-a", "2"), PASS)
            .ask(By::Nobody, Call::get("/").header("x-a", "1"), UNLISTED)
            .get(By::Nobody, "/", UNLISTED),
        row("CEL over the query")
            .allow(json!({ "when": r#"request.query["a"] == "b c""# }))
            .get(By::Nobody, "/?a=b%20c", PASS)
            .get(By::Nobody, "/?a=b+c", PASS)
            .get(By::Nobody, "/?a=b", UNLISTED),
        row("CEL over host, scheme, address and port")
            .allow(json!({ "when": r#"request.host == "orders.shop" && source.address == "127.0.0.1" && destination.port == 8080"# }))
            .get(By::Nobody, "/", PASS),
        row("a failing condition of a rule denies")
            .allow(json!({ "when": r#"int(request.headers["x-n"]) > 3"# }))
            .ask(By::Nobody, Call::get("/").header("x-n", "4"), PASS)
            .ask(By::Nobody, Call::get("/").header("x-n", "x"), by_rule("policy_error", "p", "r")),
        row("a condition of the policy")
            .authz("p", Level::Inner, json!({ "when": r#"request.path.startsWith("/api/")"#, "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "web" }] }] }))
            .get(WEB, "/api/x", PASS)
            .get(BATCH, "/api/x", UNLISTED)
            .get(BATCH, "/other", PASS),
        row("a failing condition of the policy denies")
            .authz("p", Level::Inner, json!({ "when": r#"int(request.headers["x-n"]) > 3"#, "rules": [{ "name": "r", "action": "Deny" }] }))
            .ask(By::Nobody, Call::get("/").header("x-n", "1"), PASS)
            .ask(By::Nobody, Call::get("/").header("x-n", "5"), DENIED)
            .ask(By::Nobody, Call::get("/").header("x-n", "x"), by("policy_error", "p")),
        row("a pattern")
            .allow(json!({ "when": r#"request.path.matches("^/v[0-9]+/")"# }))
            .get(By::Nobody, "/v12/x", PASS)
            .get(By::Nobody, "/vx/x", UNLISTED),
    ]
}
