//! AuthorizationPolicySpec to Filter.

use super::filter::{Called, Caller, FieldTest, Filter, HostTest, Identity, PathTest, Rule, TrustDomains};
use super::spec::{Action, AuthorizationPolicySpec, HeaderTest, Rule as RuleSpec, RuleFrom, RuleTo};
use crate::canonical;
use crate::expression::Expression;
use crate::identity::SpiffeId;
use crate::list::{Context, Invalid};
use http::{HeaderName, Method};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Bits of an IPv6 address before the IPv4 address that it maps (RFC 4291 section 2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

impl AuthorizationPolicySpec {
    /// References of its rules: the field, and `gateway:<namespace>/<name>`.
    pub(crate) fn references(&self, namespace: &str) -> Vec<(String, String)> {
        let items = self.rules.iter().enumerate().flat_map(|(rule, spec)| {
            spec.from.iter().enumerate().map(move |(item, from)| (format!("spec.rules[{rule}].from[{item}].gateway"), from))
        });
        items.filter_map(|(field, from)| Some((field, from.gateway_reference(namespace)?))).collect()
    }

    /// Compiles the rules; the envelope is checked by the caller.
    pub(crate) fn filter(&self, context: &Context<'_>) -> Result<Filter, Invalid> {
        Invalid::between("spec.rules", self.rules.len(), 1, 64)?;
        let ours = TrustDomains(std::iter::once(context.trust_domain).chain(context.aliases).cloned().collect());
        let mut filter = Filter { deny: Vec::new(), allow: Vec::new(), mode: self.mode, hidden: self.hide_details };
        let mut names = BTreeSet::new();
        for (index, spec) in self.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            if !names.insert(&spec.name) {
                return Err(Invalid::field(
                    format!("{field}.name"),
                    format!("`{}` names an earlier rule too; rule names are unique in a policy", spec.name),
                ));
            }
            let rule = compile_rule(spec, &field, context, &ours)?;
            match spec.action {
                Action::Allow => filter.allow.push(rule),
                Action::Deny => filter.deny.push(rule),
            }
        }
        Ok(filter)
    }
}

impl RuleFrom {
    fn gateway_reference(&self, namespace: &str) -> Option<String> {
        let gateway = self.gateway.as_ref()?;
        Some(format!("gateway:{}/{gateway}", self.namespace.as_deref().unwrap_or(namespace)))
    }
}

fn compile_rule(spec: &RuleSpec, field: &str, context: &Context<'_>, ours: &TrustDomains) -> Result<Rule, Invalid> {
    Invalid::name(&format!("{field}.name"), &spec.name)?;
    Invalid::at_most(&format!("{field}.from"), spec.from.len(), 64)?;
    Invalid::at_most(&format!("{field}.to"), spec.to.len(), 64)?;
    let numbered = |name: &str, index: usize| format!("{field}.{name}[{index}]");
    let from = spec.from.iter().enumerate().map(|(index, from)| compile_from(from, &numbered("from", index), context, ours));
    let to = spec.to.iter().enumerate().map(|(index, to)| compile_to(to, &numbered("to", index), context));
    let when =
        spec.when.as_deref().map(|when| Expression::compile(when).map_err(|problem| Invalid::field(format!("{field}.when"), problem)));
    Ok(Rule {
        name: Arc::from(spec.name.as_str()),
        from: from.collect::<Result<_, _>>()?,
        to: to.collect::<Result<_, _>>()?,
        when: when.transpose()?,
    })
}

fn compile_from(from: &RuleFrom, field: &str, context: &Context<'_>, ours: &TrustDomains) -> Result<Caller, Invalid> {
    if *from == RuleFrom::default() {
        return Err(Invalid::field(
            field,
            "an item without fields would match every caller; give a field, or leave `from` out to mean everybody",
        ));
    }
    let identities = [from.service_account.is_some(), from.gateway.is_some(), from.principal.is_some()];
    if identities.into_iter().filter(|given| *given).count() > 1 || (from.principal.is_some() && from.namespace.is_some()) {
        return Err(Invalid::field(
            field,
            "`serviceAccount`, `gateway` and `principal` each name a whole identity and cannot hold together; write one item for each",
        ));
    }
    Invalid::at_most(&format!("{field}.ipBlocks"), from.ip_blocks.len(), 64)?;
    let blocks = from.ip_blocks.iter().enumerate().map(|(index, text)| block(text, &format!("{field}.ipBlocks[{index}]")));
    Ok(Caller { identity: identity(from, field, context, ours)?, blocks: blocks.collect::<Result<_, _>>()? })
}

fn identity(from: &RuleFrom, field: &str, context: &Context<'_>, ours: &TrustDomains) -> Result<Option<Identity>, Invalid> {
    let namespace = from.namespace.as_deref().unwrap_or(&context.key.namespace);
    if let Some(account) = &from.service_account {
        let id = SpiffeId::new(context.trust_domain.clone(), namespace, account);
        let id = id.map_err(|_| {
            Invalid::field(
                format!("{field}.serviceAccount"),
                format!("`{namespace}/{account}` is no service account: write lower-case names, and the namespace in `namespace`"),
            )
        })?;
        return Ok(Some(Identity::Account(ours.clone(), id)));
    }
    if let Some(reference) = from.gateway_reference(&context.key.namespace) {
        let field = format!("{field}.gateway");
        let text =
            context.refs.get(&reference).ok_or_else(|| Invalid::Unresolved { field: field.clone(), reference: reference.clone() })?;
        let id: SpiffeId = text
            .parse()
            .map_err(|error| Invalid::field(field, format!("{reference} resolved to something that is no identity: {error}")))?;
        return Ok(Some(Identity::Account(ours.clone(), id)));
    }
    if let Some(principal) = &from.principal {
        let id: SpiffeId = principal.parse().map_err(|error| Invalid::field(format!("{field}.principal"), format!("{error}")))?;
        if !ours.contains(id.trust_domain()) {
            // No handshake could prove it: the mesh accepts certificates of these trust domains alone.
            return Err(Invalid::field(
                format!("{field}.principal"),
                format!(
                    "`{}` is neither our trust domain `{}` nor one of its aliases, so nobody can prove this identity; correct it, or add the domain to `trustDomainAliases` of MeshConfig `default` if its certificates are under our roots",
                    id.trust_domain(),
                    context.trust_domain
                ),
            ));
        }
        return Ok(Some(Identity::Account(ours.clone(), id)));
    }
    match &from.namespace {
        Some(namespace) if SpiffeId::new(context.trust_domain.clone(), namespace, "a").is_err() => Err(Invalid::field(
            format!("{field}.namespace"),
            format!("`{namespace}` is no namespace: use lower-case letters, digits and `-`"),
        )),
        Some(namespace) => Ok(Some(Identity::Namespace(ours.clone(), namespace.clone()))),
        None => Ok(None),
    }
}

fn block(text: &str, field: &str) -> Result<IpNet, Invalid> {
    let block: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse()
            .map_err(|_| Invalid::field(field, format!("`{text}` is no CIDR block; write for example `10.0.0.0/8` or `2001:db8::/32`")))?,
    };
    if block.trunc() != block {
        return Err(Invalid::field(field, format!("`{text}` has bits beyond its prefix; write `{}`", block.trunc())));
    }
    // Client addresses are compared in their IPv4 form, so this one would match nobody: a deny rule would never deny.
    if let IpNet::V6(v6) = block
        && let (Some(v4), Some(prefix)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED_PREFIX))
    {
        return Err(Invalid::field(field, format!("`{text}` is an IPv4 block in IPv6's form; write `{v4}/{prefix}`")));
    }
    Ok(block)
}

fn compile_to(to: &RuleTo, field: &str, context: &Context<'_>) -> Result<Called, Invalid> {
    if *to == RuleTo::default() {
        return Err(Invalid::field(
            field,
            "an item without fields would match every request; give a field, or leave `to` out to mean everything",
        ));
    }
    let lists = [
        ("methods", to.methods.len(), 16),
        ("paths", to.paths.len(), 64),
        ("hosts", to.hosts.len(), 64),
        ("ports", to.ports.len(), 64),
        ("headers", to.headers.len(), 16),
    ];
    lists.into_iter().try_for_each(|(name, length, most)| Invalid::at_most(&format!("{field}.{name}"), length, most))?;
    if let Some(index) = to.ports.iter().position(|port| *port == 0) {
        return Err(Invalid::field(format!("{field}.ports[{index}]"), "0 is no port; write 1 to 65535"));
    }
    Ok(Called {
        methods: each(&to.methods, field, "methods", |text, field| method(text, field))?,
        paths: each(&to.paths, field, "paths", |text, field| path(text, field, context))?,
        hosts: each(&to.hosts, field, "hosts", |text, field| host(text, field))?,
        ports: to.ports.clone(),
        headers: each(&to.headers, field, "headers", header)?,
    })
}

fn each<S, T>(items: &[S], field: &str, name: &str, compile: impl Fn(&S, &str) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    items.iter().enumerate().map(|(index, item)| compile(item, &format!("{field}.{name}[{index}]"))).collect()
}

fn method(text: &str, field: &str) -> Result<Method, Invalid> {
    let method = Method::from_bytes(text.as_bytes())
        .map_err(|_| Invalid::field(field, format!("`{text}` is no method; write for example `GET`")))?;
    // Methods are case-sensitive (RFC 9110 section 9.1): `get` would never match, so a deny rule would never deny.
    if text.len() > 32 || text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Invalid::field(field, format!("`{text}` is no method; write it in upper case, `{}`", text.to_ascii_uppercase())));
    }
    Ok(method)
}

fn path(text: &str, field: &str, context: &Context<'_>) -> Result<PathTest, Invalid> {
    if text.len() > 1024 {
        return Err(Invalid::field(field, "a path has at most 1024 bytes"));
    }
    let below = text.strip_suffix("/*");
    let plain = below.unwrap_or(text);
    if plain.contains('*') {
        return Err(Invalid::field(field, format!("`{text}`: `*` stands only at the end, after `/`; use `when` for other patterns")));
    }
    if plain.is_empty() && below.is_some() {
        return Ok(PathTest::Below(String::new()));
    }
    let canonical = canonical::path(plain, context.paths).map_err(|error| {
        Invalid::field(
            field,
            format!("`{text}` matches no request, because such a path is refused: {error}; write a canonical path, as in `/orders/*`"),
        )
    })?;
    if canonical != plain || (below.is_some() && plain.ends_with('/')) {
        let end = if below.is_some() { "/*" } else { "" };
        return Err(Invalid::field(
            field,
            format!(
                "`{text}` matches no request, because paths are made canonical first; write `{}{end}`",
                canonical.trim_end_matches(if below.is_some() { '/' } else { '\0' })
            ),
        ));
    }
    Ok(if below.is_some() { PathTest::Below(plain.into()) } else { PathTest::Exact(plain.into()) })
}

fn host(text: &str, field: &str) -> Result<HostTest, Invalid> {
    let wildcard = text.strip_prefix("*.");
    let name = wildcard.unwrap_or(text);
    match canonical::authority(name) {
        Ok((canonical, None)) if canonical == name && !(wildcard.is_some() && name.starts_with('[')) => {}
        Ok((canonical, _)) => {
            let star = if wildcard.is_some() { "*." } else { "" };
            return Err(Invalid::field(
                field,
                format!("`{text}` matches no request, because hosts are lower-case and without port; write `{star}{canonical}`"),
            ));
        }
        Err(_) => {
            return Err(Invalid::field(field, format!("`{text}` is no host; write for example `shop.example.com` or `*.example.com`")));
        }
    }
    Ok(if wildcard.is_some() { HostTest::Suffix(format!(".{name}")) } else { HostTest::Exact(name.into()) })
}

fn header(test: &HeaderTest, field: &str) -> Result<FieldTest, Invalid> {
    let name = HeaderName::from_bytes(test.name.as_bytes())
        .map_err(|_| Invalid::field(format!("{field}.name"), format!("`{}` is no field name; write for example `x-tenant`", test.name)))?;
    Invalid::at_most(&format!("{field}.values"), test.values.len(), 64)?;
    for (index, value) in test.values.iter().enumerate() {
        if value.trim() != value || value.len() > 4096 || value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(Invalid::field(
                format!("{field}.values[{index}]"),
                "a value has at most 4096 bytes, no control characters and no space at its ends, because none reaches a rule with them",
            ));
        }
    }
    Ok(FieldTest { name, values: test.values.clone() })
}
