//! A download that goes on where it was: with the right bytes, or from the beginning.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::server::{Reply, Request, Server};
use super::tree::{Tree, tree};
use super::{Host, files};
use crate::core::update::Event;

/// A server that hangs up after `first` bytes of the package, once; then `later` answers.
fn breaking(
    tree: &Tree,
    first: usize,
    later: impl Fn(&Request, &Tree) -> Reply + Send + Sync + 'static,
) -> Server {
    let tree = tree.clone();
    let broke = AtomicBool::new(false);
    Server::start(move |request| {
        if request.path != tree.place {
            return tree.answer(request);
        }
        if !broke.swap(true, Ordering::SeqCst) {
            let etag = ("etag", format!("\"{}\"", tree.package.len()));
            return Reply::CutOff(
                vec![etag],
                tree.package[..first].to_vec(),
                tree.package.len(),
            );
        }
        later(request, &tree)
    })
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    let asked = server.asked("/targets/");
    asked
        .into_iter()
        .map(|request| request.headers.get("range").cloned())
        .collect()
}

#[test]
fn a_release_is_fetched_verified_and_handed_over_whole() {
    let tree = tree(1, 3);
    let mut host = Host::new(&tree);
    let served = tree.clone();
    let server = Server::start(move |request| served.answer(request));
    // What a former request left.
    let old = host.incoming().join("targets/vpn-node/1.4.0");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("old"), "old").unwrap();
    std::fs::write(host.incoming().join("request.json"), "old").unwrap();
    host.fetch(&server).unwrap();
    host.updater_accepts(&tree);
    assert_eq!(
        files(&host.incoming()).len(),
        5,
        "three of metadata, package, request"
    );
    assert!(!host.partial().exists());
    assert_eq!(
        server.asked("/metadata/timestamp.json").len(),
        1,
        "each file once"
    );
    let mut progress = Vec::new();
    while let Ok(event) = host.events.try_recv() {
        match event {
            Event::Fresh { run: 1 } => {}
            Event::Progress {
                run: 1,
                progress: told,
            } => progress.push(told),
            other => panic!("{other:?}"),
        }
    }
    let last = progress.last().expect("progress is told");
    assert_eq!((last.bytes, last.total), (300_000, 300_000));
}

#[test]
fn what_broke_off_goes_on_in_another_process_with_range_and_if_range() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = breaking(&tree, 100_000, |request, tree| tree.answer(request));
    assert_eq!(host.code(&server), "repository_unreachable");
    assert_eq!(std::fs::metadata(host.partial()).unwrap().len(), 100_000);
    assert_eq!(ranges(&server), [None]);
    host.fetch(&server).unwrap();
    let asked = server.asked("/targets/");
    assert_eq!(asked[0].headers["range"], "bytes=100000-");
    assert_eq!(asked[0].headers["if-range"], "\"300000\"");
    assert_eq!(asked.len(), 1);
    host.updater_accepts(&tree);
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_from_its_beginning() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    // Another entity tag: the server answers with the whole, as If-Range asks.
    let server = breaking(&tree, 100_000, |_, tree| {
        Reply::Whole(
            200,
            vec![("etag", "\"new\"".to_owned())],
            tree.package.clone(),
        )
    });
    assert_eq!(host.code(&server), "repository_unreachable");
    host.fetch(&server).unwrap();
    host.updater_accepts(&tree);
}

#[test]
fn wrong_range_answers_are_not_glued_to_what_is_here() {
    let answers: [fn(&Request, &Tree) -> Reply; 4] = [
        |_, tree| part(206, "bytes 99999-299999/300000", &tree.package[99_999..]),
        |_, tree| part(206, "bytes 100000-299999/300001", &tree.package[100_000..]),
        |_, tree| Reply::Whole(206, Vec::new(), tree.package[100_000..].to_vec()),
        |_, _| Reply::status(416),
    ];
    for answer in answers {
        let tree = tree(1, 3);
        let host = Host::new(&tree);
        let server = breaking(&tree, 100_000, move |request, tree| {
            match request.headers.contains_key("range") {
                true => answer(request, tree),
                false => tree.answer(request),
            }
        });
        assert_eq!(host.code(&server), "repository_unreachable");
        host.fetch(&server).unwrap();
        assert_eq!(
            ranges(&server)[1..],
            [Some("bytes=100000-".to_owned()), None]
        );
        host.updater_accepts(&tree);
    }
    // One that never gives the right thing is no endless loop.
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = breaking(&tree, 100_000, |_, _| Reply::status(206));
    assert_eq!(host.code(&server), "repository_unreachable");
    assert_eq!(host.code(&server), "repository_error");
    assert_eq!(ranges(&server).len(), 3);
}

fn part(status: u16, range: &str, body: &[u8]) -> Reply {
    Reply::Whole(
        status,
        vec![("content-range", range.to_owned())],
        body.to_vec(),
    )
}

#[test]
fn a_partial_file_that_was_changed_on_disk_is_found_out_and_fetched_anew() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = breaking(&tree, 100_000, |request, tree| tree.answer(request));
    assert_eq!(host.code(&server), "repository_unreachable");
    let mut bytes = std::fs::read(host.partial()).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(host.partial(), &bytes).unwrap();
    host.fetch(&server).unwrap();
    assert_eq!(ranges(&server).len(), 3, "broken off, the rest, the whole");
    host.updater_accepts(&tree);
}

#[test]
fn a_link_or_a_longer_file_in_its_place_is_not_gone_on_with() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let server = breaking(&tree, 100_000, |request, tree| tree.answer(request));
    assert_eq!(host.code(&server), "repository_unreachable");
    let victim = host.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::fs::remove_file(host.partial()).unwrap();
    std::os::unix::fs::symlink(&victim, host.partial()).unwrap();
    host.fetch(&server).unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    host.updater_accepts(&tree);
}

#[test]
fn a_line_that_breaks_again_and_again_brings_the_package_in_the_end() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let (served, times) = (tree.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let Reply::Whole(status, headers, body) = served.answer(request) else {
            unreachable!("a good server answers whole");
        };
        if request.path != served.place || times.fetch_add(1, Ordering::SeqCst) >= 9 {
            return Reply::Whole(status, headers, body);
        }
        // A 206 that is cut off, or the first part of the whole.
        match status {
            200 => Reply::CutOff(headers, body[..30_000].to_vec(), body.len()),
            _ => {
                let length = body.len();
                Reply::Whole(status, headers, body[..30_000.min(length)].to_vec())
            }
        }
    });
    let mut failures = 0;
    while let Err(failure) = host.fetch(&server) {
        assert!(
            failure.to_string().contains("it ends after")
                || failure.to_string().contains("cannot fetch"),
            "{failure}"
        );
        failures += 1;
        assert!(failures < 12);
    }
    assert_eq!(failures, 9);
    host.updater_accepts(&tree);
}

#[test]
fn a_release_that_nobody_wants_any_more_is_taken_back_whole() {
    let tree = tree(1, 3);
    let host = Host::new(&tree);
    let served = tree.clone();
    let server = Server::start(move |request| served.answer(request));
    host.fetch(&server).unwrap();
    let mut worker = super::super::Worker::new(host.settings.clone(), host.to_events.clone());
    worker.clean();
    worker.clean();
    let (_, thread) = worker.running.take().expect("it cleans");
    thread.join().unwrap();
    assert!(!host.incoming().exists() && !host.partial().exists());
    assert!(!host.trusted().is_empty(), "what is trusted stays");
}
