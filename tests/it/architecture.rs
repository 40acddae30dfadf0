//! The arrows of `src/lib.rs` hold: who may import whom, what pure code may touch, no circles.
//!
//! `source` blanks what is no code, `paths` reads imports, `rules` judges. The rules are tried
//! on small trees with one fault each, then on this repository.

mod paths;
mod rules;
mod source;

use std::path::Path;

use rules::Violation;
use source::Tree;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn expect_none(violations: Vec<Violation>) {
    let sentences: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(sentences.is_empty(), "\n{}\n", sentences.join("\n"));
}

#[test]
fn folders_of_the_agent_import_only_what_lies_below_them() {
    expect_none(rules::layers(
        &Tree::read(&repository().join("src")).unwrap(),
    ));
}

#[test]
fn pure_code_touches_no_files_sockets_clocks_or_random_numbers() {
    let core = Tree::read(&repository().join("src")).unwrap().below("core");
    expect_none(rules::purity(&core));
    let protocol = Tree::read(&repository().join("crates/protocol/src")).unwrap();
    expect_none(rules::purity(&protocol));
}

#[test]
fn no_module_of_the_agent_imports_itself_through_others() {
    expect_none(rules::circles(
        &Tree::read(&repository().join("src")).unwrap(),
    ));
}

#[test]
fn files_are_short_and_hold_no_unsafe() {
    for folder in ["src", "crates", "tests", "xtask/src"] {
        let tree = Tree::read(&repository().join(folder)).unwrap();
        expect_none(rules::length(&tree));
        expect_none(rules::no_unsafe(&tree));
    }
}

mod faults {
    //! Each rule must find its fault, and say file, line and rule.

    use super::*;

    /// The sentences of `rule` about a tree of these files.
    fn judge(rule: fn(&Tree) -> Vec<Violation>, files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join("src").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let tree = Tree::read(&folder.path().join("src")).unwrap();
        rule(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_import_upwards_is_found_however_it_is_written() {
        let written = [
            "//! x\n\nuse crate::host::atomic;\n",
            "//! x\n\nuse crate::{core::Now, host::{atomic, clock}};\n",
            "//! x\n\nfn f() { crate::host::atomic::write(); }\n",
            "//! x\n\nuse super::host;\n",
        ];
        for text in written {
            let said = judge(rules::layers, &[("core/mod.rs", text), ("host/mod.rs", "")]);
            assert!(!said.is_empty(), "{text}");
            assert!(
                said[0].starts_with("src/core/mod.rs:3: `core` must not import `host"),
                "{text}: {said:?}"
            );
        }
    }

    #[test]
    fn the_two_helpers_of_host_may_be_used_by_all_workers_but_nothing_else_of_it() {
        let files = [
            (
                "vpn/mod.rs",
                "use crate::host::clock;\nuse crate::core::Now;\nuse crate::host::metrics;\n",
            ),
            ("core/mod.rs", ""),
            ("host/clock.rs", ""),
        ];
        let said = judge(rules::layers, &files);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("src/vpn/mod.rs:3: `vpn` must not import `host::metrics`"));
    }

    #[test]
    fn a_program_reaches_only_the_wiring() {
        let said = judge(
            rules::layers,
            &[("bin/agent.rs", "use vpn_node::ledger::Ledger;\n")],
        );
        assert!(
            said[0].starts_with("src/bin/agent.rs:1: `bin` must not import `ledger"),
            "{said:?}"
        );
        assert!(
            judge(
                rules::layers,
                &[("bin/agent.rs", "fn f() { vpn_node::daemon::main() }")]
            )
            .is_empty()
        );
    }

    #[test]
    fn a_folder_that_the_map_does_not_name_is_found() {
        let said = judge(rules::layers, &[("util/mod.rs", "")]);
        assert!(said[0].contains("`util` is not on the map"), "{said:?}");
    }

    #[test]
    fn comments_strings_and_tests_are_no_imports() {
        let text = "//! crate::host::x\n/* use crate::host; /* nested */ */\n\
                    const S: &str = \"use crate::host::x;\";\nconst R: &str = r#\"crate::host::y\"#;\n\
                    const Q: char = '\"'; fn f<'a>(x: &'a str) {}\n\
                    #[cfg(test)]\nmod tests { use crate::host::x; use std::time::Instant; }\n";
        assert!(judge(rules::layers, &[("core/mod.rs", text)]).is_empty());
        assert!(judge(rules::purity, &[("core/mod.rs", text)]).is_empty());
    }

    #[test]
    fn impure_code_is_found() {
        let impure = [
            "use std::time::{Duration, Instant};",
            "use std::fs;",
            "fn f() { let _ = ::std::net::TcpStream::connect(x); }",
            "use tokio::sync::mpsc;",
            "fn f() { getrandom::fill(&mut x); }",
            "use std::{collections::HashMap, time};",
            "fn f() { println!(\"x\"); }",
            "fn f() { Uuid::now_v7(); }",
        ];
        for text in impure {
            let said = judge(rules::purity, &[("core/mod.rs", &format!("\n{text}\n"))]);
            assert!(!said.is_empty(), "{text}");
            assert!(
                said[0].starts_with("src/core/mod.rs:2: pure code must not use `"),
                "{said:?}"
            );
        }
        let pure =
            "use std::time::Duration;\nuse std::net::{IpAddr, SocketAddr};\nuse rand_core::Rng;\n";
        assert_eq!(
            judge(rules::purity, &[("core/mod.rs", pure)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_circle_is_found_and_walked() {
        let files = [
            ("a/mod.rs", "mod one;\nmod two;\nmod three;\n"),
            ("a/one.rs", "use super::two::Two;\n"),
            ("a/two.rs", "\nfn f() { crate::a::three::f(); }\n"),
            ("a/three.rs", "use crate::a::one::One;\n"),
        ];
        let said = judge(rules::circles, &files);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("imports itself"), "{said:?}");
        for step in ["src/a/one.rs:1", "src/a/two.rs:2", "src/a/three.rs:1"] {
            assert!(said[0].contains(step), "{step} in {said:?}");
        }
    }

    #[test]
    fn a_circle_through_a_re_export_is_found() {
        let files = [
            (
                "a/mod.rs",
                "mod one;\nmod two;\npub use one::One;\npub(crate) use self::two::Two;\n",
            ),
            ("a/one.rs", "use super::Two;\n"),
            ("a/two.rs", "use crate::a::One;\n"),
        ];
        let said = judge(rules::circles, &files);
        assert_eq!(said.len(), 1, "{said:?}");
        let line = [("a/two.rs", "fn f() {}\n")];
        assert!(judge(rules::circles, &[files[0], files[1], line[0]]).is_empty());
    }

    #[test]
    fn a_parent_and_its_child_are_one_room_but_two_children_are_two() {
        let parent = (
            "a/mod.rs",
            "mod one;\nmod two;\npub struct Limit;\nfn f() { one::run(); }\n",
        );
        let child = ("a/one.rs", "use super::Limit;\nuse super::two::Two;\n");
        assert!(
            judge(
                rules::circles,
                &[parent, child, ("a/two.rs", "use crate::a::Limit;\n")]
            )
            .is_empty()
        );
        let said = judge(
            rules::circles,
            &[parent, child, ("a/two.rs", "use super::one;\n")],
        );
        assert_eq!(said.len(), 1, "{said:?}");
    }

    #[test]
    fn a_long_file_and_the_forbidden_word_are_found() {
        let said = judge(rules::length, &[("a.rs", &"\n".repeat(501))]);
        assert!(
            said[0].starts_with("src/a.rs:501: ") && said[0].contains("500"),
            "{said:?}"
        );
        let said = judge(
            rules::no_unsafe,
            &[("a.rs", "// unsafe\nfn f() {\n    unsafe {}\n}\n")],
        );
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("src/a.rs:3: "), "{said:?}");
    }
}
