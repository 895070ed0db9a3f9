//! What an expression may contain, checked once when it is compiled, and the patterns of its `matches` calls.

use super::MAX_DEPTH;
use super::facts::{self, Pattern};
use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};

/// Operators and functions, as the parser names them.
const FUNCTIONS: [&str; 27] = [
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
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "double",
    "string",
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
                if !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(match call.func_name.as_str() {
                        "map" | "filter" | "exists_one" => {
                            format!("macro `{}` is not offered; use `exists` or `all` ({KNOWN})", call.func_name)
                        }
                        name => format!("unknown function `{name}` ({KNOWN})"),
                    });
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
    fn pattern(&mut self, call: &mut cel::common::ast::CallExpr) -> Result<(), String> {
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
