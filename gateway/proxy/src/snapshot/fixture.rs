//! Resources for tests, written as JSON where that is shorter.

use super::{Live, Rejection, Snapshot};
use selvage_config::{Class, Resource};
use selvage_policy::exchange::{Destination, Http};
use selvage_policy::{Exchange, Key, Source, Target, TargetKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A world under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) resources: BTreeMap<Key, Arc<Resource>>,
}

/// Random numbers that repeat: xorshift64*.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.roll() >> 33) as usize % limit
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

pub(crate) fn gateway(name: &str) -> Target {
    Target::new(TargetKind::Gateway, "shop", name)
}

pub(crate) fn service(name: &str) -> Target {
    Target::new(TargetKind::Service, "shop", name)
}

impl World {
    pub(crate) fn put(&mut self, key: &Key, class: Class, attachments: Vec<Target>, created: i64, spec: Value) -> &mut Self {
        let mut resource = Resource { key: key.clone(), class, version: String::new(), attachments, refs: BTreeMap::new(), created, spec };
        // A version that changes with the contents is all that compile asks for.
        resource.version = format!("{:?}{:?}{}{}", resource.attachments, resource.class, resource.created, resource.spec);
        self.resources.insert(key.clone(), Arc::new(resource));
        self
    }

    pub(crate) fn core(&mut self, name: &str, spec: Value) -> &mut Self {
        self.put(&key(name), Class::Core, Vec::new(), 0, spec)
    }

    pub(crate) fn remove(&mut self, name: &str) -> &mut Self {
        self.resources.remove(&key(name)).expect("it was there");
        self
    }

    /// An edge listener `Listener/shop/public#<name>` on 127.0.0.9:10080 with the chain Gateway > listener; `extra` wins.
    pub(crate) fn listener(&mut self, name: &str, extra: Value) -> &mut Self {
        let mut spec = json!({
            "bind": {"bound": "127.0.0.9:10080"}, "port": 80, "protocol": "Http", "clients": "Outside", "forward": "routes",
            "chain": [gateway("public"), gateway("public").section(name)],
        });
        merge(&mut spec, extra);
        self.core(&format!("Listener/shop/public#{name}"), spec)
    }

    /// An HTTPRoute `Route/shop/HTTPRoute.<name>` on the listener `http`; `extra` wins.
    pub(crate) fn route(&mut self, name: &str, created: i64, extra: Value) -> &mut Self {
        let mut spec = json!({
            "object": {"kind": "HTTPRoute", "namespace": "shop", "name": name},
            "parents": ["Listener/shop/public#http"],
            "rules": [{"backends": [{"backend": "Backend/shop/orders#80", "weight": 1}]}],
        });
        merge(&mut spec, extra);
        let kind = spec["object"]["kind"].as_str().expect("a kind").to_string();
        self.put(&key(&format!("Route/shop/{kind}.{name}")), Class::Core, Vec::new(), created, spec)
    }

    /// `Backend/shop/<name>#80` with the chain Mesh > Namespace > Service and one endpoint.
    pub(crate) fn backend(&mut self, name: &str, extra: Value, endpoints: Value) -> &mut Self {
        let chain = json!([Target::new(TargetKind::Mesh, "", "default"), Target::new(TargetKind::Namespace, "", "shop"), service(name)]);
        let mut spec = json!({"port": 80, "protocol": "Http", "chain": chain});
        merge(&mut spec, extra);
        self.core(&format!("Backend/shop/{name}#80"), spec);
        self.core(&format!("Endpoints/shop/{name}-1#80"), json!({"backend": format!("Backend/shop/{name}#80"), "endpoints": endpoints}))
    }

    /// A policy of `kind` on one target; its class is what its kind says. (`targetRefs` must be there; the attachments count.)
    pub(crate) fn policy(&mut self, kind: &str, name: &str, target: Target, mut spec: Value) -> &mut Self {
        merge(&mut spec, json!({"targetRefs": [{"kind": "Service", "name": "any"}]}));
        let class = if kind == "TrafficPolicy" { Class::Traffic } else { Class::Guard };
        self.put(&key(&format!("{kind}/shop/{name}")), class, vec![target], 0, spec)
    }

    pub(crate) fn compile(&self) -> (Snapshot, Vec<Rejection>) {
        Snapshot::compile(&Snapshot::empty(), &self.resources, &Live::default())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (snapshot, rejections) = self.compile();
        assert_eq!(rejections, [], "nothing is rejected");
        snapshot
    }
}

/// Puts the fields of `extra` over those of `spec`; `null` removes one.
pub(crate) fn merge(spec: &mut Value, extra: Value) {
    let (Value::Object(fields), Value::Object(extra)) = (spec, extra) else { panic!("both are objects") };
    for (name, value) in extra {
        if value.is_null() {
            fields.remove(&name);
        } else {
            fields.insert(name, value);
        }
    }
}

/// A request and the facts around it.
pub(crate) struct Facts {
    pub(crate) method: http::Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) source: Source,
    pub(crate) destination: Destination,
}

impl Facts {
    /// `GET <url>`, the url being `host/path?query`.
    pub(crate) fn get(url: &str) -> Self {
        Self::of("GET", url, &[])
    }

    pub(crate) fn of(method: &str, url: &str, headers: &[(&str, &str)]) -> Self {
        let (host, target) = url.split_at(url.find('/').expect("a path"));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        Self {
            method: method.parse().expect("a method"),
            host: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            headers: map,
            source: Source { address: [192, 0, 2, 7].into(), principal: None },
            destination: Destination { address: ([127, 0, 0, 9], 10080).into() },
        }
    }

    pub(crate) fn exchange(&self) -> Exchange<'_> {
        Exchange {
            source: &self.source,
            destination: &self.destination,
            http: Some(Http {
                method: &self.method,
                scheme: "http",
                host: &self.host,
                path: &self.path,
                query: self.query.as_deref(),
                headers: &self.headers,
            }),
            now: Duration::from_secs(1000),
            wall: SystemTime::UNIX_EPOCH,
        }
    }
}
