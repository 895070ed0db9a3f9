//! CEL expressions over an Exchange: conditions (`when`) and keys of limits.
//!
//! | variable | type | absent when |
//! | --- | --- | --- |
//! | `request.method` | string, `GET` | no HTTP |
//! | `request.scheme` | string, `http` or `https` | no HTTP |
//! | `request.host` | string, lower-case, without port | no HTTP |
//! | `request.path` | string, the canonical path | no HTTP |
//! | `request.query` | map, name to value, percent-decoded; several values joined with `, ` | no HTTP; a name: not in the query |
//! | `request.rawQuery` | string as sent, without `?` | no HTTP, or no query |
//! | `request.headers` | map, lower-case name to value; several lines joined with `, ` | no HTTP; a name: no such field |
//! | `source.address` | string, the client's IP address | never |
//! | `source.principal`, `.namespace`, `.serviceAccount`, `.trustDomain` | strings, as in `principal` | no identity |
//! | `destination.address`, `destination.port` | string and int, where the caller connected to | never |
//! | `principal.id` | string, `spiffe://<trust-domain>/ns/<namespace>/sa/<account>` | no identity |
//! | `principal.namespace`, `.serviceAccount`, `.trustDomain` | its parts | no identity |
//!
//! `request` equals `null` without HTTP, `principal` without an identity. `has(request.headers.host)`, `"x-a" in request.headers` and
//! `has(principal.id)` ask whether a fact is there; using one that is not makes the outcome [`Outcome::Absent`].
//!
//! Operators: `&& || ! == != < <= > >= in + - * / % ?: [] .`; functions: `size(x)` or `x.size()`, `x.contains(y)`, `x.startsWith(y)`,
//! `x.endsWith(y)`, `matches(x, y)` or `x.matches(y)`, `int(x)`, `double(x)`, `string(x)`; macros: `has`, `all`, `exists`. A function
//! called otherwise is refused when it is compiled. CEL has no evaluation budget here, so what an expression can cost is bounded when it
//! is compiled: its length, its depth, no macro inside a macro, nothing that grows inside one, and `matches` takes a literal pattern, which is
//! compiled once.

mod check;
mod facts;
#[cfg(test)]
mod tests;

use crate::exchange::Exchange;
use cel::common::types::{CelBool, CelDouble, CelInt, CelString, CelUInt};
use cel::{Context, Env, ExecutionError, IdedExpr, Value};
use facts::{Facts, Pattern};
use std::sync::{Arc, LazyLock};

/// Longest expression, in bytes: as in the CRDs.
pub const MAX_LENGTH: usize = 4096;

/// Deepest tree: evaluation recurses and takes about 30 KiB a level where nothing is optimised; worker threads have 2 MiB.
const MAX_DEPTH: usize = 24;

/// Deepest brackets, as the parser counts them.
const MAX_NESTING: u16 = 40;

/// Stack of the parser: it takes about 170 KiB a nesting level where nothing is optimised, far more than any other code here.
const PARSER_STACK: usize = 16 << 20;

/// Functions of the language; immutable, so every expression shares them.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(facts::language()));

/// A compiled expression and its text.
#[derive(Debug)]
pub struct Expression {
    text: String,
    tree: IdedExpr,
    patterns: Vec<Pattern>,
}

/// What an expression gave.
#[derive(Debug, PartialEq)]
pub enum Outcome<T> {
    /// A value.
    Value(T),
    /// It needs a fact that this Exchange does not have.
    Absent,
    /// It failed otherwise.
    Error(String),
}

impl Expression {
    /// Compiles it: at most 4 KiB, only known variables and functions.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("the expression has {} bytes; at most {MAX_LENGTH} are allowed", text.len()));
        }
        if text.trim().is_empty() {
            return Err("the expression is empty; leave the field out instead".into());
        }
        let mut tree = parse(text)?;
        let patterns = check::check(&mut tree)?;
        Ok(Self { text: text.into(), tree, patterns })
    }

    /// An expression that panics when it is evaluated: the interpreter has no answer to an empty tree.
    #[cfg(test)]
    pub(crate) fn panicking() -> Self {
        Self { text: String::new(), tree: IdedExpr::default(), patterns: Vec::new() }
    }

    /// As somebody wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As a condition.
    pub fn test(&self, exchange: &Exchange<'_>) -> Outcome<bool> {
        self.evaluate(exchange, |value| value.downcast_ref::<CelBool>().map(|value| *value.inner()), "a condition must give true or false")
    }

    /// As a key: strings as they are, numbers and booleans printed.
    pub fn text(&self, exchange: &Exchange<'_>) -> Outcome<String> {
        let print = |value: &(dyn cel::common::value::Val + '_)| {
            let text = value.downcast_ref::<CelString>().map(|value| value.inner().to_string());
            text.or_else(|| value.downcast_ref::<CelInt>().map(|value| value.inner().to_string()))
                .or_else(|| value.downcast_ref::<CelUInt>().map(|value| value.inner().to_string()))
                .or_else(|| value.downcast_ref::<CelDouble>().map(|value| value.inner().to_string()))
                .or_else(|| value.downcast_ref::<CelBool>().map(|value| value.inner().to_string()))
        };
        self.evaluate(exchange, print, "a key must give a string, a number or a boolean")
    }

    fn evaluate<T>(
        &self,
        exchange: &Exchange<'_>,
        read: impl Fn(&(dyn cel::common::value::Val + '_)) -> Option<T>,
        expected: &str,
    ) -> Outcome<T> {
        let facts = Facts { exchange, patterns: &self.patterns };
        let mut context = Context::with_env(LANGUAGE.clone());
        context.set_variable_resolver(&facts);
        match Value::resolve_val(&self.tree, &context) {
            Ok(value) => read(value.as_ref()).map_or_else(|| Outcome::Error(expected.into()), Outcome::Value),
            // Every name was known when it was compiled, so a name that does not resolve is a fact that is not there.
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::UndeclaredReference(_)) => Outcome::Absent,
            Err(error) => Outcome::Error(error.to_string()),
        }
    }
}

/// Parses on a thread of its own, joined at once: the parser recurses so deep that brackets within its own limit would overflow the stack of a
/// worker thread, and with it the process.
fn parse(text: &str) -> Result<IdedExpr, String> {
    let parser = LANGUAGE.parser().max_recursion_depth(MAX_NESTING);
    let parsed = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("cel-parser".into()).stack_size(PARSER_STACK);
        let handle =
            builder.spawn_scoped(scope, || parser.parse(text)).map_err(|error| format!("the parser could not be started: {error}"))?;
        handle.join().map_err(|_| "not a CEL expression: the parser failed on it".to_string())
    })?;
    parsed.map_err(|errors| {
        let message = errors.errors.first().map_or_else(|| errors.to_string(), |error| error.msg.clone());
        if message.contains("Recursion limit") {
            format!("the expression is nested more than {MAX_NESTING} deep; split it into several rules")
        } else {
            format!("not a CEL expression: {message}")
        }
    })
}
