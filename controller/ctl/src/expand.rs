//! `$(NAME)` in commands and arguments, as Kubernetes replaces it: unknown names stay, `$$(NAME)` is a literal `$(NAME)`.

/// Replaces every variable that `known` has a value for. (Kubernetes: "Define Dependent Environment Variables".)
pub fn expand<'v>(text: &str, known: impl Fn(&str) -> Option<&'v String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let variable = rest.strip_prefix("$(").and_then(|after| after.split_once(')'));
        let value = variable.and_then(|(name, after)| Some((known(name)?, after)));
        match (rest.strip_prefix("$$"), value) {
            (Some(after), _) => {
                expanded.push('$');
                // What follows is literal up to the next `$`.
                let literal = after.find('$').unwrap_or(after.len());
                expanded.push_str(&after[..literal]);
                rest = &after[literal..];
            }
            (None, Some((value, after))) => {
                expanded.push_str(value);
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
    use std::collections::BTreeMap;

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
            assert_eq!(expand(text, |name| variables.get(name)), expected, "{text}");
        }
    }
}
