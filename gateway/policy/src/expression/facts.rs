//! The Exchange as CEL values: looked up when an expression asks, borrowed where that is possible.

use crate::exchange::{Exchange, Http};
use crate::identity::SpiffeId;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as ValIterator, Sizer};
use cel::common::types::{self, CelBool, CelInt, CelNull, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;
use cel::{Env, ExecutionError};
use http::HeaderMap;
use std::any::Any;
use std::borrow::Cow;
use std::sync::OnceLock;

/// Variables and their fields.
pub const VARIABLES: [(&str, &[&str]); 4] = [
    ("request", &["method", "scheme", "host", "path", "query", "rawQuery", "headers"]),
    ("source", &["address", "principal", "namespace", "serviceAccount", "trustDomain"]),
    ("destination", &["address", "port"]),
    ("principal", &["id", "namespace", "serviceAccount", "trustDomain"]),
];

/// What `pattern_name` begins with: no identifier of the language does.
const PATTERN_PREFIX: &str = "@pattern";

static OBJECT_TYPE: Type = Type::new_unspecified_type("object");
static PATTERN_TYPE: Type = Type::new_unspecified_type("pattern");
static NULL: CelNull = CelNull;

/// The name under which a compiled pattern is looked up.
pub fn pattern_name(index: usize) -> String {
    format!("{PATTERN_PREFIX}{index}")
}

/// The standard functions, and `matches` with a pattern that is compiled already.
pub fn language() -> Env {
    let mut env = Env::stdlib().with_optional_support(false);
    env.add_member_overload("matches", "string_matches_pattern", types::STRING_TYPE, vec![PATTERN_TYPE.to_owned()], matches_pattern)
        .expect("an overload that the standard library does not have");
    env.add_overload("matches", "matches_pattern", vec![types::STRING_TYPE, PATTERN_TYPE.to_owned()], matches_pattern)
        .expect("an overload that the standard library does not have");
    env
}

fn matches_pattern<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = args.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, args.len()));
    };
    match (text.downcast_ref::<CelString>(), pattern.downcast_ref::<Pattern>()) {
        (Some(text), Some(Pattern(pattern))) => Ok(CowVal::owned(CelBool::from(pattern.is_match(text.inner())))),
        _ => Err(ExecutionError::function_error("matches", "needs a string and a pattern")),
    }
}

/// The variables of one evaluation.
#[derive(Debug)]
pub struct Facts<'a> {
    pub exchange: &'a Exchange<'a>,
    pub patterns: &'a [Pattern],
}

impl VariableResolver for Facts<'_> {
    /// Called with the longest qualified name first (`request.headers`, then `request`).
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(index) = variable.strip_prefix(PATTERN_PREFIX) {
            return self.patterns.get(index.parse::<usize>().ok()?).map(|pattern| CowVal::Borrowed(pattern as &dyn Val));
        }
        let object = match variable.split_once('.').map_or(variable, |(name, _)| name) {
            "request" => self.exchange.http.map(Object::Request),
            "source" => Some(Object::Source(self.exchange)),
            "destination" => Some(Object::Destination(self.exchange)),
            "principal" => self.exchange.source.principal.as_ref().map(Object::Principal),
            _ => return None,
        };
        match variable.split_once('.') {
            Some((_, field)) => object?.field(field),
            None => Some(object.map_or(CowVal::owned(Missing), CowVal::owned)),
        }
    }
}

/// A variable as a whole.
#[derive(Clone, Copy, Debug)]
enum Object<'a> {
    Request(Http<'a>),
    Source(&'a Exchange<'a>),
    Destination(&'a Exchange<'a>),
    Principal(&'a SpiffeId),
}

impl<'a> Object<'a> {
    fn field<'b, 'v>(self, field: &str) -> Option<CowVal<'b, 'v>>
    where
        'a: 'v,
    {
        let text = |text: &'a str| Some(CowVal::owned(CelString::from(text)));
        let made = |text: String| Some(CowVal::owned(CelString::from(text)));
        match (self, field) {
            (Self::Request(http), "method") => text(http.method.as_str()),
            (Self::Request(http), "scheme") => text(http.scheme),
            (Self::Request(http), "host") => text(http.host),
            (Self::Request(http), "path") => text(http.path),
            (Self::Request(http), "rawQuery") => http.query.and_then(text),
            (Self::Request(http), "query") => Some(CowVal::owned(Fields::new(Lookup::Query(http.query.unwrap_or(""))))),
            (Self::Request(http), "headers") => Some(CowVal::owned(Fields::new(Lookup::Headers(http.headers)))),
            (Self::Source(exchange), "address") => made(exchange.source.address.to_canonical().to_string()),
            (Self::Source(exchange), "principal") => made(exchange.source.principal.as_ref()?.to_string()),
            (Self::Source(exchange), field) => Self::Principal(exchange.source.principal.as_ref()?).field(field),
            (Self::Destination(exchange), "address") => made(exchange.destination.address.ip().to_canonical().to_string()),
            (Self::Destination(exchange), "port") => Some(CowVal::owned(CelInt::from(i64::from(exchange.destination.address.port())))),
            (Self::Principal(id), "id") => made(id.to_string()),
            (Self::Principal(id), "namespace") => text(id.namespace()),
            (Self::Principal(id), "serviceAccount") => text(id.account()),
            (Self::Principal(id), "trustDomain") => text(id.trust_domain().as_str()),
            _ => None,
        }
    }
}

impl Val for Object<'_> {
    fn get_type(&self) -> &Type {
        &OBJECT_TYPE
    }
    fn cel_type() -> &'static Type {
        &OBJECT_TYPE
    }
    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Indexer for Object<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key(index)?;
        self.field(name).ok_or_else(|| ExecutionError::no_such_key(name))
    }
    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

/// Where named values come from.
#[derive(Clone, Copy, Debug)]
enum Lookup<'a> {
    Headers(&'a HeaderMap),
    Query(&'a str),
}

/// Named values, each name once.
#[derive(Debug)]
struct Fields<'a> {
    lookup: Lookup<'a>,
    /// Filled when a macro goes over the names.
    names: OnceLock<Vec<CelString<'a>>>,
}

impl<'a> Fields<'a> {
    fn new(lookup: Lookup<'a>) -> Self {
        Self { lookup, names: OnceLock::new() }
    }

    fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.lookup {
            Lookup::Headers(headers) => joined(headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()))),
            Lookup::Query(query) => joined(parameters(query).filter(|(known, _)| known == name).map(|(_, value)| value)),
        }
    }

    fn names(&self) -> &[CelString<'a>] {
        self.names.get_or_init(|| match self.lookup {
            Lookup::Headers(headers) => headers.keys().map(|name| CelString::from(name.as_str())).collect(),
            Lookup::Query(query) => {
                let mut names: Vec<Cow<'a, str>> = parameters(query).map(|(name, _)| name).collect();
                names.sort_unstable();
                names.dedup();
                names.into_iter().map(CelString::from).collect()
            }
        })
    }
}

/// Several values of one name are one value: whoever sends a field twice must not slip a second value past a rule.
fn joined<'a>(mut values: impl Iterator<Item = Cow<'a, str>>) -> Option<Cow<'a, str>> {
    let first = values.next()?;
    Some(values.fold(first, |mut all, value| {
        let text = all.to_mut();
        text.push_str(", ");
        text.push_str(&value);
        all
    }))
}

/// Name and value of each parameter, decoded as `application/x-www-form-urlencoded`.
fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decoded(name), decoded(value)))
}

fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
    } else {
        percent_encoding::percent_decode_str(text).decode_utf8_lossy()
    }
}

impl Val for Fields<'_> {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }
    fn cel_type() -> &'static Type {
        &types::MAP_TYPE
    }
    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }
    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(Self::new(self.lookup))
    }
}

impl Indexer for Fields<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key(index)?;
        self.value(name).map(|value| CowVal::owned(CelString::from(value))).ok_or_else(|| ExecutionError::no_such_key(name))
    }
    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Container for Fields<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        key(value).map(|name| self.value(name).is_some())
    }
}

impl Sizer for Fields<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.names().len()).unwrap_or(i64::MAX))
    }
}

impl Iterable for Fields<'_> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn ValIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Names(self.names().iter()))
    }
}

struct Names<'b, 'a>(std::slice::Iter<'b, CelString<'a>>);

impl<'b, 'a: 'v, 'v> ValIterator<'b, 'v> for Names<'b, 'a> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|name| name as &'b (dyn Val + 'v))
    }
}

/// A variable that this Exchange does not have. It equals `null`, has no field, and is no value otherwise.
#[derive(Clone, Copy, Debug)]
struct Missing;

impl Val for Missing {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }
    fn cel_type() -> &'static Type {
        &types::NULL_TYPE
    }
    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<CelNull>().is_some()
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
    /// `null == principal` asks `null`, which looks for another `null` here.
    fn as_any(&self) -> Option<&dyn Any> {
        Some(&NULL)
    }
}

impl Indexer for Missing {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Err(ExecutionError::no_such_key(key(index)?))
    }
    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Err(ExecutionError::no_such_key(key(index)?))
    }
}

/// A compiled pattern of `matches`.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }
    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

fn key<'b>(index: &'b (dyn Val + '_)) -> Result<&'b str, ExecutionError> {
    let name = index.downcast_ref::<CelString>().map(CelString::inner);
    name.ok_or_else(|| ExecutionError::UnexpectedType { got: index.get_type().name().into(), want: "string".into() })
}
