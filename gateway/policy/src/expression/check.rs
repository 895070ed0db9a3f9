//! What an expression may contain, checked once when it is compiled, and the patterns of its `matches` calls.

use super::MAX_DEPTH;
use super::facts::{self, Pattern};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};

/// Operators, as the parser names them.
const OPERATORS: [&str; 19] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `f(x, y)`
    Global,
    /// `x.f(y)`
    Member,
    /// Either.
    Both,
}

/// Functions with the ways to call them and how many values they take, that before the dot included. Called otherwise one would be a name
/// that does not resolve, which at run time is an absent fact.
const FUNCTIONS: [(&str, Style, usize); 8] = [
    ("size", Style::Both, 1),
    ("contains", Style::Member, 2),
    ("startsWith", Style::Member, 2),
    ("endsWith", Style::Member, 2),
    ("matches", Style::Both, 2),
    ("int", Style::Global, 1),
    ("double", Style::Global, 1),
    ("string", Style::Global, 1),
];

const KNOWN: &str = "known functions: size, contains, startsWith, endsWith, matches, int, double, string; macros: has, all, exists";

/// Most bytes a compiled pattern may take.
const MAX_PATTERN: usize = 1 << 18;

/// Checks the tree and takes the patterns out of it.
pub fn check(tree: &mut IdedExpr) -> Result<Vec<Pattern>, String> {
    let mut walk = Walk { scope: Vec::new(), patterns: Vec::new() };
    walk.visit(tree, 0)?;
    Ok(walk.patterns)
}

/// Whether the call is one of a known function, in a way that it is offered.
fn function(call: &CallExpr) -> Result<(), String> {
    let name = call.func_name.as_str();
    let Some((_, style, values)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
        return Err(match name {
            "map" | "filter" | "exists_one" => format!("macro `{name}` is not offered; use `exists` or `all` ({KNOWN})"),
            name => format!("unknown function `{name}` ({KNOWN})"),
        });
    };
    let called = if call.target.is_some() { Style::Member } else { Style::Global };
    let given = call.args.len() + usize::from(call.target.is_some());
    if (*style == called || *style == Style::Both) && given == *values {
        return Ok(());
    }
    let member = if *values == 2 { format!("`x.{name}(y)`") } else { format!("`x.{name}()`") };
    let global = if *values == 2 { format!("`{name}(x, y)`") } else { format!("`{name}(x)`") };
    let right = match style {
        Style::Global => global,
        Style::Member => member,
        Style::Both => format!("{global} or {member}"),
    };
    Err(format!("`{name}` is not called like this; write {right}"))
}

struct Walk {
    /// Variables of the macro around; empty outside of one.
    scope: Vec<String>,
    patterns: Vec<Pattern>,
}

impl Walk {
    fn visit(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the expression is nested more than {MAX_DEPTH} deep; split it into several rules"));
        }
        let next = depth + 1;
        match &mut node.expr {
            Expr::Unspecified => Err("the expression is empty".into()),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                self.field(&select.operand, &select.field)?;
                self.visit(&mut select.operand, next)
            }
            Expr::Call(call) => {
                if !OPERATORS.contains(&call.func_name.as_str()) {
                    function(call)?;
                }
                if call.func_name == operators::ADD && !self.scope.is_empty() {
                    return Err("`+` is not allowed inside `all` and `exists`, because it could grow without bound".into());
                }
                if call.func_name == operators::INDEX
                    && let [operand, index] = call.args.as_slice()
                    && let Expr::Literal(LiteralValue::String(name)) = &index.expr
                {
                    self.field(operand, name.inner())?;
                }
                if call.func_name == "matches" {
                    self.pattern(call)?;
                }
                call.target.iter_mut().map(|target| &mut **target).chain(&mut call.args).try_for_each(|arg| self.visit(arg, next))
            }
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element, next)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&mut entry.key, next)?;
                    self.visit(&mut entry.value, next)
                }
                EntryExpr::StructField(_) => Err("objects with named types are not offered".into()),
            }),
            Expr::Struct(_) => Err("objects with named types are not offered".into()),
            Expr::Comprehension(macro_call) => {
                if !matches!(macro_call.accu_init.expr, Expr::Literal(LiteralValue::Boolean(_))) {
                    return Err(format!("macros `map`, `filter` and `exists_one` are not offered; use `exists` or `all` ({KNOWN})"));
                }
                if !self.scope.is_empty() {
                    return Err("a macro inside a macro is not allowed, because its cost has no bound".into());
                }
                self.visit(&mut macro_call.iter_range, next)?;
                self.scope = vec![macro_call.accu_var.clone(), macro_call.iter_var.clone()];
                self.scope.extend(macro_call.iter_var2.clone());
                let parts = [&mut macro_call.loop_cond, &mut macro_call.loop_step, &mut macro_call.result];
                let checked = parts.into_iter().try_for_each(|part| self.visit(part, next));
                self.scope.clear();
                checked
            }
        }
    }

    fn variable(&self, name: &str) -> Result<(), String> {
        // Names with `@` are ours (patterns) or a macro's; nobody can write them.
        if name.starts_with('@') || self.scope.iter().any(|local| local == name) || facts::VARIABLES.iter().any(|(known, _)| *known == name)
        {
            return Ok(());
        }
        let known: Vec<&str> = facts::VARIABLES.iter().map(|(name, _)| *name).collect();
        Err(format!("unknown variable `{name}`; known variables: {}", known.join(", ")))
    }

    /// A field that no variable has is a spelling mistake, and would be an absent fact forever.
    fn field(&self, operand: &IdedExpr, field: &str) -> Result<(), String> {
        let Expr::Ident(name) = &operand.expr else { return Ok(()) };
        if self.scope.iter().any(|local| local == name) {
            return Ok(());
        }
        match facts::VARIABLES.iter().find(|(known, _)| *known == name) {
            Some((_, fields)) if !fields.contains(&field) => {
                Err(format!("`{name}` has no field `{field}`; known fields: {}", fields.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// A literal pattern becomes a variable `@pattern0`, compiled now.
    fn pattern(&mut self, call: &mut CallExpr) -> Result<(), String> {
        let expected = "`matches` takes a literal pattern: `request.path.matches(\"^/a[0-9]+$\")`";
        let argument = call.args.last_mut().ok_or(expected)?;
        let Expr::Literal(LiteralValue::String(text)) = &argument.expr else { return Err(expected.into()) };
        let pattern = regex::RegexBuilder::new(text.inner())
            .size_limit(MAX_PATTERN)
            .build()
            .map_err(|error| format!("`{}` is not a regular expression: {error}", text.inner()))?;
        let name = facts::pattern_name(self.patterns.len());
        argument.expr = Expr::Ident(name);
        self.patterns.push(Pattern(pattern));
        Ok(())
    }
}
