//! Finding what an operator means: by its id, by its name, or by the beginning of its id.

use anyhow::bail;

use super::show;

/// Ids that a sentence names; a user may have hundreds of devices.
const NAMED: usize = 8;

/// How things of a kind are called.
pub(super) struct Kind<T> {
    /// For example `device`.
    pub(super) word: &'static str,
    /// The command that lists them.
    pub(super) list: &'static str,
    pub(super) id: fn(&T) -> &str,
    pub(super) name: fn(&T) -> Option<&str>,
    /// What tells one from others of its name, safe for a terminal: whose it is, whether it is good.
    pub(super) about: fn(&T) -> String,
}

impl<T> Kind<T> {
    /// The one that is meant. An id is the controller's word and comes first: a name may be another
    /// one's id.
    pub(super) fn pick(&self, rows: Vec<T>, named: &str) -> anyhow::Result<T> {
        let is_id = |row: &T| (self.id)(row) == named;
        let is_name = |row: &T| (self.name)(row) == Some(named);
        let begins = |row: &T| !named.is_empty() && (self.id)(row).starts_with(named);
        let rank = |row: &T| match () {
            () if is_id(row) => Some(0),
            () if is_name(row) => Some(1),
            () if begins(row) => Some(2),
            () => None,
        };
        let best = rows.iter().filter_map(rank).min();
        let mut meant: Vec<T> = rows
            .into_iter()
            .filter(|row| best.is_some() && rank(row) == best)
            .collect();
        match (meant.pop(), meant.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => bail!(
                "no {word} is called \"{}\", and no {word} id begins so: see '{}'",
                show::escaped(named),
                self.list,
                word = self.word,
            ),
            (Some(last), others) => {
                meant.push(last);
                let one = |row: &T| format!("{} ({})", (self.id)(row), (self.about)(row));
                let ids: Vec<String> = meant.iter().take(NAMED).map(one).collect();
                let more = if others >= NAMED { ", …" } else { "" };
                bail!(
                    "{} {}s are meant by \"{}\"; name one by its id: {}{more}",
                    others + 1,
                    self.word,
                    show::escaped(named),
                    ids.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind<(&str, &str)> = Kind {
        word: "device",
        list: "device list",
        id: |row| row.0,
        name: |row| Some(row.1),
        about: |row| format!("{} letters", row.1.len()),
    };

    #[test]
    fn an_id_comes_before_a_name_and_a_name_before_the_beginning_of_an_id() {
        let rows = || {
            vec![
                ("0199-a", "laptop"),
                ("0199-b", "0199-a"),
                ("0198-c", "0199"),
                ("7", "phone"),
                ("8", "phone"),
            ]
        };
        let pick = |named: &str| KIND.pick(rows(), named).map_err(|error| error.to_string());
        assert_eq!(pick("0199-a").unwrap().1, "laptop");
        assert_eq!(pick("0199").unwrap().0, "0198-c");
        assert_eq!(pick("0199-b").unwrap().0, "0199-b");
        assert_eq!(pick("laptop").unwrap().0, "0199-a");
        let error = pick("phone").unwrap_err();
        assert!(
            error.contains("2 devices") && error.contains("7 (5 letters), 8 (5 letters)"),
            "{error}"
        );
        for none in ["", "x\u{1b}[2J"] {
            let error = pick(none).unwrap_err();
            assert!(
                error.contains("device list") && !error.contains('\u{1b}'),
                "{error}"
            );
        }
    }
}
