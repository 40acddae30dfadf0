//! Servers that mean it no good: each is refused with its code, hands nothing over, and changes
//! nothing that was trusted before.

use std::time::Duration;

use tokio::sync::watch;
use vpn_node_release::code::PackageCode;
use vpn_node_release::version::{Version, Word};

use super::server::{Reply, Request, Server};
use super::tree::{Tree, info, make, tree};
use super::{Host, Task, fetch};
use crate::core::update::{Event, Failure};

/// A good server but for what `answer` says.
fn but(
    tree: &Tree,
    answer: impl Fn(&Request, &Tree) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let tree = tree.clone();
    Server::start(move |request| answer(request, &tree).unwrap_or_else(|| tree.answer(request)))
}

fn package_is(tree: &Tree, reply: fn(&Tree) -> Reply) -> Server {
    but(tree, move |request, tree| {
        (request.path == tree.place).then(|| reply(tree))
    })
}

fn timestamp_is(tree: &Tree, reply: fn() -> Reply) -> Server {
    but(tree, move |request, _| {
        request.path.contains("timestamp").then(reply)
    })
}

#[test]
fn other_bytes_than_were_signed_are_refused_and_not_kept() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = package_is(&tree, |tree| {
        let mut other = tree.package.clone();
        other[299_999] ^= 1;
        Reply::ok(&other)
    });
    let (code, retry) = host.refused(&server);
    assert_eq!(code, PackageCode::PackageHashMismatch.as_str());
    assert!(
        retry.unwrap() >= Duration::from_secs(60),
        "a mirror does not heal in a second"
    );
    assert_eq!(std::fs::metadata(host.partial()).unwrap().len(), 0);
}

#[test]
fn a_longer_package_is_refused_by_its_length_and_an_endless_one_by_its_bytes() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = package_is(&tree, |tree| Reply::ok(&[&tree.package[..], b"x"].concat()));
    assert_eq!(host.code(&server), "too_long");
    let server = package_is(&tree, |_| Reply::Endless);
    assert_eq!(host.code(&server), "too_long");
    // What was signed, and what the two systems' buffers take: no more leaves the server.
    assert!(server.sent() < 20_000_000, "{}", server.sent());
    assert_eq!(std::fs::metadata(host.partial()).unwrap().len(), 0);
}

#[test]
fn endless_metadata_is_refused_before_it_is_kept() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    assert_eq!(
        host.code(&timestamp_is(&tree, || Reply::Endless)),
        "too_long"
    );
    let server = timestamp_is(&tree, || Reply::ok(&vec![b' '; 20_000]));
    assert_eq!(host.code(&server), "too_long");
    let server = but(&tree, |request, _| {
        request.path.contains("root").then_some(Reply::Endless)
    });
    assert_eq!(host.code(&server), "too_long");
}

#[test]
fn slow_retrieval_is_given_up_after_one_window_for_metadata_and_package() {
    let tree = tree(1, 3);
    let host = Host::new(&tree).impatient();
    let server = package_is(&tree, |tree| {
        Reply::Stall(tree.package[..1000].to_vec(), 300_000)
    });
    let (code, retry) = host.refused(&server);
    assert_eq!((code, retry), ("too_slow", Some(Duration::ZERO)));
    let server = timestamp_is(&tree, || Reply::Stall(b"{".to_vec(), 500));
    assert_eq!(host.code(&server), "too_slow");
}

#[test]
fn a_run_that_is_stopped_ends_whatever_the_server_does() {
    let tree = tree(1, 3);
    let mut host = Host::new(&tree);
    let server = package_is(&tree, |tree| {
        Reply::Stall(tree.package[..1000].to_vec(), 300_000)
    });
    let (stop, stopped) = watch::channel(false);
    let mut events = std::mem::replace(&mut host.events, tokio::sync::mpsc::channel(1).1);
    let stopper = std::thread::spawn(move || {
        while let Some(event) = events.blocking_recv() {
            if matches!(event, Event::Progress { .. }) {
                stop.send_replace(true);
                return;
            }
        }
    });
    let failure = host.run_until(&fetch(), &server, stopped).unwrap_err();
    assert_eq!(failure.to_string(), "stopped");
    stopper.join().unwrap();
    assert!(!host.incoming().join("request.json").exists());
}

#[test]
fn redirects_are_followed_within_a_server_and_nowhere_else_without_https() {
    let tree = tree(1, 3);
    let to = |place: String| Reply::Whole(302, vec![("location", place)], Vec::new());
    let host = Host::new(&tree);
    let server = but(&tree, move |request, tree| {
        if request.path == "/elsewhere" {
            return Some(Reply::ok(&tree.package));
        }
        (request.path == tree.place).then(|| to("/elsewhere".to_owned()))
    });
    host.fetch(&server).unwrap();
    host.updater_accepts(&tree);

    for elsewhere in [
        "http://127.0.0.1:9/x",
        "http://mirror.example/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
    ] {
        let host = Host::new(&tree);
        let server = but(&tree, move |request, tree| {
            (request.path == tree.place).then(|| to(elsewhere.to_owned()))
        });
        assert_eq!(host.code(&server), "redirect_refused", "{elsewhere}");
    }
    let host = Host::new(&tree);
    let server = but(&tree, move |request, tree| {
        (request.path == tree.place).then(|| to(request.path.clone()))
    });
    assert_eq!(host.code(&server), "redirect_refused", "in a circle");
    assert!(server.asked("/targets/").len() <= 6);
}

#[test]
fn what_is_missing_busy_or_broken_has_its_own_code() {
    let tree = tree(1, 3);
    let codes = [
        (404, "not_in_repository"),
        (403, "not_in_repository"),
        (410, "not_in_repository"),
        (500, "repository_error"),
        (204, "repository_error"),
        (206, "repository_error"),
    ];
    for (status, code) in codes {
        let server = but(&tree, move |request, tree| {
            (request.path == tree.place).then(|| Reply::status(status))
        });
        assert_eq!(Host::new(&tree).code(&server), code, "{status}");
    }
    for status in [429, 503] {
        let server = but(&tree, move |request, tree| {
            let retry_after = ("retry-after", "77".to_owned());
            (request.path == tree.place)
                .then(|| Reply::Whole(status, vec![retry_after], Vec::new()))
        });
        let refused = Host::new(&tree).refused(&server);
        assert_eq!(refused, ("repository_busy", Some(Duration::from_secs(77))));
    }
    let (server, host) = (Server::start(|_| Reply::status(404)), Host::new(&tree));
    assert_eq!(host.code(&server), "metadata_missing", "no timestamp");
}

#[test]
fn nobody_there_is_unreachable() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = Server::start(|_| Reply::status(200));
    let url = server.url();
    drop(server);
    let (_running, stopped) = watch::channel(false);
    let run = |url: &str| {
        let access = super::Access {
            tls: crate::remote::tls::config(
                Some(vpn_node_protocol::encoding::Digest::of(&[b"x"])),
                None,
            )
            .unwrap(),
            proxy: None,
            rate: host.rate,
            https_only: true,
        };
        let source = super::Source::new(url, access, stopped.clone()).unwrap();
        Failure::from(source.small("metadata/timestamp.json", 10).unwrap_err()).code
    };
    assert_eq!(
        run(&url.replace("http:", "https:")),
        "repository_unreachable"
    );
    assert_eq!(run(&url), "repository_unreachable", "never plain HTTP");
}

#[test]
fn refused_metadata_changes_nothing_that_was_trusted() {
    let good = tree(1, 3);
    let host = Host::new(&good);
    host.run(&Task::Check, &but(&good, |_, _| None)).unwrap();
    let trusted = host.trusted();
    assert!(trusted.len() >= 5, "{:?}", trusted.keys());
    let expired = make(1, 4, &info(), -1);
    let cases = [
        (tree(1, 2), "rollback"),
        (tree(2, 4), "unsigned"),
        (expired, "expired"),
    ];
    for (bad, code) in cases {
        let failure = host.run(&Task::Check, &but(&bad, |_, _| None)).unwrap_err();
        assert_eq!(Failure::from(failure).code, code);
        assert_eq!(host.code(&but(&bad, |_, _| None)), code);
        // The high-water mark may have learned a version, never another content.
        for name in [
            "root.json",
            "timestamp.json",
            "snapshot.json",
            "targets.json",
        ] {
            let file = host.dir.path().join("updates/trust").join(name);
            assert_eq!(host.trusted()[&file], trusted[&file], "{code} {name}");
        }
    }
    host.fetch(&but(&good, |_, _| None)).unwrap();
}

#[test]
fn a_release_that_is_not_for_this_host_is_refused_before_its_package_is_fetched() {
    let with = |change: fn(&mut vpn_node_release::release::ReleaseInfo)| {
        let mut info = info();
        change(&mut info);
        make(1, 3, &info, 60)
    };
    let cases = [
        (
            with(|i| i.channel = Word::parse("beta").unwrap()),
            "wrong_channel",
        ),
        (with(|i| i.counter = 6), "counter_lower"),
        (
            with(|i| i.arch = Word::parse("mips").unwrap()),
            "target_path_mismatch",
        ),
        (
            with(|i| i.version = Version::new(1, 6, 0)),
            "target_path_mismatch",
        ),
        (with(|i| i.product = "other".to_owned()), "wrong_product"),
    ];
    for (tree, code) in cases {
        let host = Host::new(&tree);
        let server = but(&tree, |_, _| None);
        assert_eq!(host.refused(&server), (code, None));
        assert!(server.asked("/targets/").is_empty(), "{code}");
    }
    let tree = tree(1, 3);
    let mut host = Host::new(&tree);
    host.settings.max_bytes = 299_999;
    let server = but(&tree, |_, _| None);
    assert_eq!(host.refused(&server), ("download_too_large", None));
    assert!(server.asked("/targets/").is_empty());
}

#[test]
fn without_the_updaters_root_nothing_is_asked_of_anybody() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    std::fs::remove_file(&host.settings.updater_root).unwrap();
    let server = but(&tree, |_, _| None);
    assert_eq!(host.code(&server), "not_managed");
    assert!(server.asked("").is_empty());
}

#[test]
fn another_root_of_the_updater_begins_the_agents_store_anew() {
    let first = tree(1, 9);
    let host = Host::new(&first);
    host.run(&Task::Check, &but(&first, |_, _| None)).unwrap();
    let second = tree(2, 3);
    std::fs::write(&host.settings.updater_root, &second.root).unwrap();
    host.fetch(&but(&second, |_, _| None)).unwrap();
    host.updater_accepts(&second);
}
