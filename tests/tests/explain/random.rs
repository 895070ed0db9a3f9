//! Random configurations and requests, from small vocabularies, so that they meet.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use selvage_config::resource::route::{
    FilterSpec, HeaderChange, MatchSpec, PathChange, PathMatch, RedirectSpec, RewriteSpec, RuleSpec, ValueMatch, ValueTest, WeightedBackend,
};
use selvage_config::{Resource, keys};
use selvage_policy::Target;
use selvage_policy::mesh::{DoubleSlash, Encoded, PathHandling, Posture};
use selvage_tests::standalone::{Call, Resources};
use serde_json::{Value, json};

/// A source of choices.
pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, most: usize) -> usize {
        self.0.random_range(0..most)
    }

    /// True once in `of` times.
    fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some<T: Clone>(&mut self, from: &[T], most: usize) -> Vec<T> {
        (0..=self.below(most)).map(|_| self.pick(from)).collect()
    }
}

const ACCOUNTS: [(&str, &str); 4] = [("shop", "web"), ("shop", "cart"), ("jobs", "batch"), ("shop", "public-selvage")];
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PURGE"];
const HOSTS: [&str; 5] = ["orders.shop", "a.example", "b.a.example", "internal.shop", "127.0.0.1"];
const SPELLED_HOSTS: [&str; 12] = [
    "orders.shop",
    "ORDERS.shop",
    "orders.shop.",
    "orders.shop:8080",
    "a.example",
    "A.Example:1",
    "b.a.example",
    "b.a.example.:80",
    "internal.shop",
    "Internal.SHOP.",
    "127.0.0.1",
    "a..b",
];
const RULE_PATHS: [&str; 10] = ["/", "/*", "/a", "/a/*", "/a/b", "/a/b/*", "/admin/*", "/x%20y", "/a;v=1/*", "/c/"];
const PIECES: [&str; 22] = [
    "/", "/a", "/b", "/admin", "/c", "/..", "/.", "//", "/%61", "/%2e%2e", "/%2f", "/%5C", "/%zz", "/..;/", "/x%20y", "/a;v=1", "/%41",
    "/A", "/%00", "/e%CC%81", "/~u", "/%7Eu",
];
const QUERIES: [&str; 7] = ["", "", "", "?q=1", "?q=2&q=1", "?q=%31", "?/../a"];
const NAMES: [&str; 4] = ["x-tenant", "x-role", "X-Tenant", "x-n"];
const VALUES: [&str; 8] = ["a", "b", "evil", "a, evil", "1", "x", "", "7"];
const CONDITIONS: [&str; 14] = [
    r#"request.method == "GET""#,
    r#"request.path.startsWith("/a")"#,
    r#"request.host == "orders.shop""#,
    r#"request.headers["x-tenant"] == "a""#,
    r#""x-role" in request.headers"#,
    r#"int(request.headers["x-n"]) > 3"#,
    r#"principal.namespace == "jobs""#,
    r#"principal != null"#,
    r#"has(principal.id) && principal.serviceAccount != "web""#,
    r#"request.query["q"] == "1""#,
    r#"source.address == "127.0.0.1" && destination.port == 8080"#,
    r#"request.path.matches("^/(a|admin)(/|$)")"#,
    r#"!(request.scheme == "https") || request.host.endsWith("example")"#,
    r#"size(request.path) > 6 ? request.method != "DELETE" : true"#,
];
const INVALID: [&str; 3] = ["request.nonsense", "request.path ==", "nobody.home"];

/// A random configuration: policies, routes, the platform's settings.
pub struct Configuration {
    policies: Vec<(&'static str, String, Value, Vec<Target>)>,
    routes: Vec<RuleSpec>,
    posture: Posture,
    paths: PathHandling,
    pub hides_details: bool,
}

impl Configuration {
    pub fn random(random: &mut Random, targets: &[Target], is_edge: bool) -> Self {
        let policies: Vec<_> = (0..random.below(4)).map(|number| policy(random, number, targets)).collect();
        let hides_details = policies.iter().any(|(_, _, spec, _)| spec["hideDetails"] == true);
        let routes = if is_edge { (0..=random.below(4)).map(|number| route(random, number)).collect() } else { Vec::new() };
        let paths = if random.once_in(4) {
            PathHandling {
                encoded_slash: random.pick(&[Encoded::Refuse, Encoded::Keep]),
                encoded_backslash: random.pick(&[Encoded::Refuse, Encoded::Keep]),
                double_slash: random.pick(&[DoubleSlash::Merge, DoubleSlash::Refuse, DoubleSlash::Keep]),
            }
        } else {
            PathHandling::default()
        };
        let posture = random.pick(&[Posture::AllowAll, Posture::AllowAll, Posture::MeshOnly, Posture::SameNamespace, Posture::Deny]);
        Self { policies, routes, posture, paths, hides_details }
    }

    pub fn resources(&self, base: Resources) -> Resources {
        let mut resources = base.mesh(|mesh| {
            mesh.posture = self.posture;
            mesh.paths = self.paths;
        });
        for (created, (kind, name, spec, on)) in self.policies.iter().enumerate() {
            // Gateways `public` are resolved, those called `gone` are not.
            let refs = [("gateway:shop/public", "spiffe://cluster.local/ns/shop/sa/public-selvage")];
            resources = resources.policy_of(kind, name, spec, on, created as i64, &refs);
        }
        if !self.routes.is_empty() {
            resources = resources.route_of("main", &keys::listener("shop", "public", "http"), self.routes.clone());
        }
        resources
    }

    /// For people, without secrets.
    pub fn yaml(&self, resources: &Resources) -> String {
        let shown: Vec<Resource> =
            resources.list().values().map(|resource| resource.redacted()).filter(|r| r.key.kind != "Certificate").collect();
        serde_saphyr::to_string(&shown).unwrap_or_else(|error| format!("{error}: {shown:?}"))
    }
}

fn policy(random: &mut Random, number: usize, targets: &[Target]) -> (&'static str, String, Value, Vec<Target>) {
    let on = random.some(targets, 2);
    if random.once_in(25) {
        return ("FirewallPolicy", format!("p{number}"), json!({ "anything": number }), on);
    }
    let limits = random.once_in(3);
    let mut spec = if limits {
        let limits: Vec<Value> = (0..=random.below(2)).map(|number| limit(random, number)).collect();
        json!({ "limits": limits })
    } else {
        let rules: Vec<Value> = (0..=random.below(3)).map(|number| rule(random, number)).collect();
        json!({ "rules": rules })
    };
    if random.once_in(3) {
        spec["when"] = json!(condition(random));
    }
    if random.once_in(4) {
        spec["inheritance"] = json!("Default");
    }
    if random.once_in(10) {
        spec["hideDetails"] = json!(true);
    }
    if !limits && random.once_in(6) {
        spec["mode"] = json!("Audit");
    }
    if random.once_in(25) {
        spec["unknown"] = json!(1);
    }
    (if limits { "RateLimitPolicy" } else { "AuthorizationPolicy" }, format!("p{number}"), spec, on)
}

fn condition(random: &mut Random) -> String {
    if random.once_in(20) {
        return random.pick(&INVALID).into();
    }
    let first = random.pick(&CONDITIONS);
    match random.below(6) {
        0 => format!("({first}) && ({})", random.pick(&CONDITIONS)),
        1 => format!("({first}) || ({})", random.pick(&CONDITIONS)),
        2 => format!("!({first})"),
        _ => first.into(),
    }
}

fn limit(random: &mut Random, number: usize) -> Value {
    let mut limit = json!({ "name": format!("l{number}"), "requests": 1 + random.below(6), "per": "1h" });
    match random.below(3) {
        0 => limit["key"] = json!(random.pick(&[r#"request.headers["x-tenant"]"#, "request.path", "principal.id", "destination.port"])),
        1 => limit["by"] = json!(random.some(&["ClientAddress", "Principal", "Host", "Path", "Method"], 2)),
        _ => {}
    }
    if random.once_in(3) {
        limit["burst"] = json!(1 + random.below(8));
    }
    limit
}

fn rule(random: &mut Random, number: usize) -> Value {
    let mut rule = json!({ "name": format!("r{number}"), "action": random.pick(&["Allow", "Allow", "Deny"]) });
    if random.once_in(2) {
        rule["from"] = (0..=random.below(2)).map(|_| from(random)).collect();
    }
    if random.once_in(2) {
        rule["to"] = (0..=random.below(2)).map(|_| to(random)).collect();
    }
    if random.once_in(3) {
        rule["when"] = json!(condition(random));
    }
    rule
}

fn from(random: &mut Random) -> Value {
    let (namespace, account) = random.pick(&ACCOUNTS);
    let mut from = match random.below(6) {
        0 => json!({ "namespace": namespace }),
        1 => json!({ "serviceAccount": account, "namespace": namespace }),
        2 => json!({ "serviceAccount": account }),
        3 => json!({ "principal": format!("spiffe://cluster.local/ns/{namespace}/sa/{account}") }),
        4 => json!({ "gateway": if random.once_in(8) { "gone" } else { "public" } }),
        _ => json!({ "ipBlocks": [random.pick(&["127.0.0.0/8", "10.0.0.0/8", "127.0.0.1", "::/0"])] }),
    };
    if random.once_in(5) {
        from["ipBlocks"] = json!(random.some(&["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"], 2));
    }
    from
}

fn to(random: &mut Random) -> Value {
    let mut to = json!({});
    if random.once_in(3) {
        to["methods"] = json!(random.some(&METHODS, 3));
    }
    if random.once_in(2) {
        to["paths"] = json!(random.some(&RULE_PATHS, 3));
    }
    if random.once_in(4) {
        to["hosts"] = json!(random.some(&["orders.shop", "*.example", "*.a.example", "internal.shop"], 2));
    }
    if random.once_in(6) {
        to["ports"] = json!(random.some(&[8080, 80, 443], 2));
    }
    if random.once_in(4) {
        let values: Vec<&str> = if random.once_in(3) { Vec::new() } else { random.some(&["a", "b", "evil", "1"], 2) };
        to["headers"] = json!([{ "name": random.pick(&NAMES), "values": values }]);
    }
    if to == json!({}) {
        to["paths"] = json!(["/*"]);
    }
    to
}

fn route(random: &mut Random, number: usize) -> RuleSpec {
    let path = match random.below(4) {
        0 => Some(PathMatch::Exact(random.pick(&["/a", "/a/b", "/admin", "/"]).into())),
        1 => None,
        _ => Some(PathMatch::Prefix(random.pick(&["/", "/a", "/a/b", "/admin", "/c"]).into())),
    };
    let is_prefix = matches!(path, Some(PathMatch::Prefix(_)));
    let method = random.once_in(5).then(|| random.pick(&METHODS).to_string());
    let test = |name: &str, value: &str| vec![ValueMatch { name: name.into(), value: ValueTest::Exact(value.into()) }];
    let headers = if random.once_in(5) { test("x-tenant", "a") } else { Vec::new() };
    let query = if random.once_in(6) { test("q", "1") } else { Vec::new() };
    let filters = match random.below(9) {
        0 => vec![FilterSpec::Redirect(RedirectSpec {
            scheme: random.once_in(2).then(|| "https".into()),
            hostname: random.once_in(2).then(|| "elsewhere.example".into()),
            path: (is_prefix && random.once_in(2)).then(|| PathChange::Prefix("/new".into())),
            port: random.once_in(3).then_some(8443),
            status: random.pick(&[301, 302, 303, 307, 308]),
        })],
        1 => vec![FilterSpec::Rewrite(RewriteSpec {
            hostname: random.once_in(2).then(|| "inside.example".into()),
            path: Some(if is_prefix && random.once_in(2) { PathChange::Prefix("/sub".into()) } else { PathChange::Full("/whole".into()) }),
        })],
        2 => vec![FilterSpec::RequestHeaders(HeaderChange {
            set: vec![("x-tenant".into(), "a".into())],
            add: vec![("x-role".into(), "evil".into())],
            remove: vec!["x-n".into()],
        })],
        3 if random.once_in(3) => vec![FilterSpec::Unresolved("HTTPRouteFilter/gone".into())],
        _ => Vec::new(),
    };
    let backend = match random.below(10) {
        0 => None,
        1 => Some(keys::backend("shop", "empty", 80)),
        2 | 3 => Some(keys::backend("shop", "plain", 80)),
        _ => Some(keys::backend("shop", "orders", 80)),
    };
    RuleSpec {
        name: Some(if number == 0 { "main".into() } else { format!("r{number}") }),
        matches: vec![MatchSpec { path, method, headers, query }],
        filters,
        backends: vec![WeightedBackend { backend, weight: 1, filters: Vec::new() }],
        ..RuleSpec::default()
    }
}

/// A random request.
pub struct Request {
    pub principal: Option<(&'static str, &'static str)>,
    pub h2: bool,
    pub call: Call,
}

impl Request {
    pub fn random(random: &mut Random) -> Self {
        let principal = (!random.once_in(3)).then(|| random.pick(&ACCOUNTS));
        let h2 = random.once_in(2);
        let plain = random.once_in(2);
        let path = if plain {
            random.pick(&["/", "/a", "/a/b", "/admin/x", "/c/", "/nowhere"]).to_string()
        } else {
            random.some(&PIECES, 4).concat()
        };
        let host = if plain { random.pick(&HOSTS) } else { random.pick(&SPELLED_HOSTS) };
        let mut call = Call::new(random.pick(&METHODS), &format!("{path}{}", random.pick(&QUERIES))).host(host);
        for _ in 0..random.below(4) {
            let (name, value) = (random.pick(&NAMES), random.pick(&VALUES));
            call = call.header(name, value);
        }
        if random.once_in(10) {
            let (name, value) = (
                random.pick(&["selvage-principal", "x-forwarded-for", "x_forwarded_for", "X-Forwarded-Proto"]),
                random.pick(&["a", "10.1.2.3", "https"]),
            );
            call = call.header(name, value);
        }
        if !h2 && random.once_in(12) {
            call = call.header("connection", "keep-alive, x-tenant");
        }
        Self { principal, h2, call }
    }

    pub fn yaml(&self) -> String {
        let principal = self.principal.map(|(namespace, account)| format!("{namespace}/{account}"));
        let Call { method, target, host, headers, .. } = &self.call;
        let shown =
            json!({ "principal": principal, "http2": self.h2, "method": method, "target": target, "host": host, "headers": headers });
        serde_saphyr::to_string(&shown).unwrap_or_else(|error| format!("{error}: {shown}"))
    }
}
