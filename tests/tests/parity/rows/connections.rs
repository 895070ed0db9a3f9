//! Opaque TCP: nothing is known of a connection but who makes it, from where and whereto.

use super::*;
use selvage_policy::mesh::Posture;

impl Row {
    /// One connection: it has no path.
    fn connect(self, by: By, want: Want) -> Self {
        self.get(by, "/", want)
    }
}

pub fn opaque() -> Vec<Row> {
    vec![
        row("no policy at all").connect(By::Nobody, PASS).connect(WEB, PASS),
        row("an account")
            .allow(json!({ "from": [{ "serviceAccount": "web" }] }))
            .connect(WEB, PASS)
            .connect(BATCH, UNLISTED)
            .connect(By::Nobody, UNLISTED),
        row("a namespace denied, and callers without identity with it")
            .deny(json!({ "from": [{ "namespace": "jobs" }] }))
            .connect(BATCH, DENIED)
            .connect(WEB, PASS)
            .connect(By::Nobody, DENIED),
        row("posture MeshOnly")
            .mesh(|mesh| mesh.posture = Posture::MeshOnly)
            .connect(By::Nobody, refuse("posture_denied"))
            .connect(BATCH, PASS),
        row("the port, as it is known outside").allow(json!({ "to": [{ "ports": [8080] }] })).connect(By::Nobody, PASS).connect(WEB, PASS),
        row("another port").allow(json!({ "to": [{ "ports": [18080, 5432] }] })).connect(WEB, UNLISTED).connect(By::Nobody, UNLISTED),
        row("an address").allow(json!({ "from": [{ "ipBlocks": ["127.0.0.0/8"] }] })).connect(By::Nobody, PASS).connect(WEB, PASS),
        row("another address").deny(json!({ "from": [{ "ipBlocks": ["192.0.2.0/24"] }] })).connect(By::Nobody, PASS).connect(WEB, PASS),
        row("a rule over HTTP denies what is not known to be HTTP")
            .deny(json!({ "to": [{ "methods": ["DELETE"] }] }))
            .connect(WEB, DENIED)
            .connect(By::Nobody, DENIED),
        row("a rule over HTTP allows nothing").allow(json!({ "to": [{ "paths": ["/*"] }] })).connect(WEB, UNLISTED),
        row("CEL over what is there")
            .allow(json!({ "when": r#"request == null && destination.port == 8080 && source.address == "127.0.0.1""# }))
            .connect(By::Nobody, PASS)
            .connect(WEB, PASS),
        row("CEL over an absent fact")
            .deny(json!({ "when": r#"request.headers["x-a"] == "1""# }))
            .connect(WEB, DENIED)
            .connect(By::Nobody, DENIED),
        row("targets are ANDed")
            .authz("outer", Level::Outer, json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "namespace": "shop" }] }] }))
            .authz("inner", Level::Section, json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "web" }] }] }))
            .connect(WEB, PASS)
            .connect(EDGE, by("authorization_denied", "inner"))
            .connect(BATCH, by("authorization_denied", "outer")),
        row("an unusable guard refuses")
            .rejected()
            .authz("p", Level::Inner, json!({ "rules": [] }))
            .connect(WEB, by("policy_invalid", "p"))
            .connect(By::Nobody, by("policy_invalid", "p")),
        row("each connection counts")
            .limit("p", Level::Inner, json!([{ "name": "l", "requests": 2, "per": "1h" }]))
            .connect(WEB, PASS)
            .connect(By::Nobody, PASS)
            .connect(WEB, by_rule("rate_limited", "p", "l")),
        row("by principal")
            .limit("p", Level::Outer, json!([{ "name": "l", "by": ["Principal"], "requests": 1, "per": "1h" }]))
            .connect(WEB, PASS)
            .connect(BATCH, PASS)
            .connect(WEB, by_rule("rate_limited", "p", "l"))
            .connect(By::Nobody, PASS)
            .connect(By::Nobody, by_rule("rate_limited", "p", "l")),
        row("by path, which is absent: all together")
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Path"], "requests": 1, "per": "1h" }]))
            .connect(WEB, PASS)
            .connect(BATCH, by_rule("rate_limited", "p", "l")),
    ]
}
