//! `$(NAME)` in commands and arguments, as Kubernetes replaces it: unknown names stay, `$$(NAME)` is a literal `$(NAME)`.

use std::collections::BTreeMap;

/// Replaces every known variable. (Kubernetes: "Define Dependent Environment Variables".)
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let variable = rest.strip_prefix("$(").and_then(|after| after.split_once(')'));
        match (rest.strip_prefix("$$"), variable) {
            (Some(after), _) => {
                expanded.push('$');
                // What follows is literal up to the next `$`.
                let literal = after.find('$').unwrap_or(after.len());
                expanded.push_str(&after[..literal]);
                rest = &after[literal..];
            }
            (None, Some((name, after))) if variables.contains_key(name) => {
                expanded.push_str(&variables[name]);
                rest = after;
            }
            _ => {
                expanded.push('$');
                rest = &rest[1..];
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_are_replaced_and_everything_else_stays() {
        let variables = BTreeMap::from([("HOST".to_string(), "127.0.0.1".to_string()), ("EMPTY".to_string(), String::new())]);
        for (text, expected) in [
            ("$(HOST):80", "127.0.0.1:80"),
            ("a$(EMPTY)b", "ab"),
            ("$(NOBODY)", "$(NOBODY)"),
            ("$$(HOST)", "$(HOST)"),
            ("$$(HOST) $(HOST)", "$(HOST) 127.0.0.1"),
            ("$HOST", "$HOST"),
            ("cost: 5$", "cost: 5$"),
            ("$(HOST", "$(HOST"),
            ("ü$(HOST)ü", "ü127.0.0.1ü"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
