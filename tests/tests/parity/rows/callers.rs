//! Who calls, and from where.

use super::*;
use selvage_policy::mesh::Posture;

pub fn identities() -> Vec<Row> {
    vec![
        row("no policy at all").get(By::Nobody, "/", PASS).get(WEB, "/x", PASS),
        row("an account").allow(json!({ "from": [{ "serviceAccount": "web" }] })).get(WEB, "/", PASS).get(BATCH, "/", UNLISTED).get(
            By::Nobody,
            "/",
            UNLISTED,
        ),
        row("an account of another namespace")
            .allow(json!({ "from": [{ "serviceAccount": "batch", "namespace": "jobs" }] }))
            .get(BATCH, "/", PASS)
            .get(By::Account("shop", "batch"), "/", UNLISTED)
            .get(WEB, "/", UNLISTED),
        row("a namespace")
            .allow(json!({ "from": [{ "namespace": "jobs" }] }))
            .get(BATCH, "/", PASS)
            .get(By::Account("jobs", "other"), "/", PASS)
            .get(By::Account("jobs2", "batch"), "/", UNLISTED)
            .get(WEB, "/", UNLISTED),
        row("a namespace denied, and callers without identity with it")
            .deny(json!({ "from": [{ "namespace": "jobs" }] }))
            .get(BATCH, "/", DENIED)
            .get(WEB, "/", PASS)
            .get(By::Nobody, "/", DENIED),
        row("an account denied").deny(json!({ "from": [{ "serviceAccount": "web" }] })).get(WEB, "/", DENIED).get(BATCH, "/", PASS),
        row("a whole principal")
            .allow(json!({ "from": [{ "principal": "spiffe://cluster.local/ns/jobs/sa/batch" }] }))
            .get(BATCH, "/", PASS)
            .get(WEB, "/", UNLISTED),
        row("a caller of another trust domain gets no connection, whatever a rule says")
            .allow(json!({}))
            .get(FRIEND, "/", Want::Stranger)
            .get(WEB, "/", PASS),
        row("an alias of our trust domain is ours")
            .allow(json!({ "from": [{ "serviceAccount": "web" }] }))
            .mesh(|mesh| mesh.trust_domain_aliases = vec!["old.local".to_string().try_into().expect("a trust domain")])
            .get(ALIAS, "/", PASS)
            .get(FRIEND, "/", Want::Stranger),
        row("a Gateway")
            .allow(json!({ "from": [{ "gateway": "public" }] }))
            .resolved("gateway:shop/public", "spiffe://cluster.local/ns/shop/sa/public-selvage")
            .get(EDGE, "/", PASS)
            .get(WEB, "/", UNLISTED)
            .get(By::Nobody, "/", UNLISTED),
        row("several callers")
            .allow(json!({ "from": [{ "serviceAccount": "web" }, { "namespace": "jobs" }] }))
            .get(WEB, "/", PASS)
            .get(BATCH, "/", PASS)
            .get(EDGE, "/", UNLISTED),
        row("posture MeshOnly")
            .mesh(|mesh| mesh.posture = Posture::MeshOnly)
            .get(By::Nobody, "/", refuse("posture_denied"))
            .get(BATCH, "/", PASS),
        row("posture SameNamespace")
            .mesh(|mesh| mesh.posture = Posture::SameNamespace)
            .get(WEB, "/", PASS)
            .get(BATCH, "/", refuse("posture_denied"))
            .get(By::Nobody, "/", refuse("posture_denied")),
        row("posture Deny").mesh(|mesh| mesh.posture = Posture::Deny).get(WEB, "/", refuse("posture_denied")),
        row("posture Deny gives way to an allow rule")
            .mesh(|mesh| mesh.posture = Posture::Deny)
            .allow(json!({ "from": [{ "serviceAccount": "web" }] }))
            .get(WEB, "/", PASS)
            .get(BATCH, "/", UNLISTED),
        row("posture Deny does not give way to deny rules")
            .mesh(|mesh| mesh.posture = Posture::Deny)
            .deny(json!({ "from": [{ "namespace": "jobs" }] }))
            .get(WEB, "/", refuse("posture_denied"))
            .get(BATCH, "/", DENIED),
    ]
}

pub fn addresses_and_ports() -> Vec<Row> {
    vec![
        row("an address block").allow(json!({ "from": [{ "ipBlocks": ["127.0.0.0/8"] }] })).get(By::Nobody, "/", PASS).get(WEB, "/", PASS),
        row("another address block").allow(json!({ "from": [{ "ipBlocks": ["10.0.0.0/8", "2001:db8::/32"] }] })).get(
            By::Nobody,
            "/",
            UNLISTED,
        ),
        row("an address block denied").deny(json!({ "from": [{ "ipBlocks": ["127.0.0.1"] }] })).get(WEB, "/", DENIED),
        row("an account from an address block")
            .allow(json!({ "from": [{ "serviceAccount": "web", "ipBlocks": ["127.0.0.0/8"] }] }))
            .get(WEB, "/", PASS)
            .get(By::Nobody, "/", UNLISTED),
        row("a forged address is not believed")
            .deny(json!({ "from": [{ "ipBlocks": ["203.0.113.0/24"] }] }))
            .ask(By::Nobody, Call::get("/").header("x-forwarded-for", "203.0.113.7"), PASS)
            .ask(WEB, Call::get("/").header("x-forwarded-for", "203.0.113.7"), PASS),
        row("a port").allow(json!({ "to": [{ "ports": [8080] }] })).get(By::Nobody, "/", PASS),
        row("another port").allow(json!({ "to": [{ "ports": [9090, 443] }] })).get(By::Nobody, "/", UNLISTED),
        row("a port denied").deny(json!({ "to": [{ "ports": [8080] }] })).get(WEB, "/", DENIED),
    ]
}
