//! The commands of a page of the documentation, as a person would type them one after the other.
//!
//! A block ```` ```sh ```` is for the host that a suite plays. One with a further word (````
//! ```sh controller ````) is for another machine or another way, and runs only where a suite asks
//! for it by that word.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// A page, and how far it was followed.
pub(super) struct Page {
    blocks: Vec<Block>,
    next: usize,
}

/// The lines of one block, and the heading that it stands under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) heading: String,
    /// The word behind `sh`; empty for the host itself.
    pub(super) word: String,
    pub(super) script: String,
}

impl Page {
    /// Reads `docs/NAME`.
    pub(super) fn open(name: &str) -> Result<Self> {
        let path = shell::repository().join("docs").join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            blocks: blocks(&text),
            next: 0,
        })
    }

    /// The next block for the host itself; it must be the one under this heading.
    pub(super) fn next(&mut self, heading: &str) -> Result<String> {
        let mut left = self.blocks.iter().enumerate().skip(self.next);
        let (at, block) = left
            .find(|(_, block)| block.word.is_empty())
            .with_context(|| format!("the page ends before '{heading}'"))?;
        ensure!(
            block.heading == heading,
            "the next commands of the page are under '{}', not under '{heading}'",
            block.heading
        );
        self.next = at + 1;
        Ok(block.script.clone())
    }

    /// The blocks with this word, in their order.
    pub(super) fn of(&self, word: &str) -> Vec<String> {
        let of_word = self.blocks.iter().filter(|block| block.word == word);
        of_word.map(|block| block.script.clone()).collect()
    }

    /// That every block for the host itself was run.
    pub(super) fn must_be_done(&self) -> Result<()> {
        let mut left = self.blocks.iter().skip(self.next);
        match left.find(|block| block.word.is_empty()) {
            None => Ok(()),
            Some(block) => {
                anyhow::bail!("nobody ran the commands under '{}'", block.heading)
            }
        }
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut heading, mut within) = (String::new(), false);
    for line in text.lines() {
        if within {
            within = line != "```";
            if let Some(block) = blocks.last_mut().filter(|_| within) {
                block.script.push_str(line);
                block.script.push('\n');
            }
        } else if let Some(word) = line.strip_prefix("```sh") {
            within = true;
            blocks.push(Block {
                heading: heading.clone(),
                word: word.trim().to_owned(),
                script: String::new(),
            });
        } else if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut heading);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A page\n\n```sh rpm\ndnf\n```\n## One\n```sh\n# no heading\napt\n```\n\
                        ```json\n{}\n```\n## Two\n```sh\nlast\n```\n";

    #[test]
    fn commands_are_read_with_heading_and_word() {
        let read = blocks(TEXT);
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].word, "rpm");
        assert_eq!(
            (read[1].heading.as_str(), read[1].word.as_str()),
            ("One", "")
        );
        assert_eq!(read[1].script, "# no heading\napt\n");
    }

    #[test]
    fn a_page_is_followed_in_its_order_and_to_its_end() {
        let mut page = Page {
            blocks: blocks(TEXT),
            next: 0,
        };
        assert!(page.next("Two").is_err());
        assert_eq!(page.next("One").unwrap(), "# no heading\napt\n");
        assert!(page.must_be_done().is_err());
        assert_eq!(page.next("Two").unwrap(), "last\n");
        page.must_be_done().unwrap();
        assert!(page.next("Two").is_err());
        assert_eq!(page.of("rpm"), ["dnf\n"]);
    }

    #[test]
    fn the_page_for_installing_has_commands_for_each_way() {
        let page = Page::open("install.md").unwrap();
        for word in ["", "controller", "rpm", "unattended"] {
            assert!(!page.of(word).is_empty(), "{word}");
        }
    }
}
