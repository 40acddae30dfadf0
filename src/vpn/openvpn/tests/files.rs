//! Status files: three formats, names with commas, and files that do not change any more.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::vpn::openvpn::file::{self, GONE_AFTER, Look, STALE_AFTER, StatusFile};
use crate::vpn::openvpn::status::Table;

const FORMAT_1: &str = include_str!("../../../../tests/fixtures/openvpn/status-1.txt");
const FORMAT_3: &str = include_str!("../../../../tests/fixtures/openvpn/status-3.txt");
const UNDEF: &str = include_str!("../../../../tests/fixtures/openvpn/undef.txt");

fn table(text: &str) -> Table {
    file::parse(text.as_bytes()).expect("whole").unwrap()
}

fn names(table: &Table) -> Vec<String> {
    let names = table.clients.iter();
    names
        .map(|client| client.common_name.escape_ascii().to_string())
        .collect()
}

fn read(agent: &mut Agent, text: &str, now: Now) -> Vec<String> {
    let mut out = Outcome::default();
    agent.server.read_file(table(text), now, &mut out);
    agent.take(out, now).iter().map(shown).collect()
}

#[test]
fn format_3_lists_whom_it_lists_and_skips_who_is_not_there_yet() {
    let mut agent = Agent::fresh();
    let told = read(&mut agent, FORMAT_3, at(1_795_311_375_500));
    // The other one is in the middle of its authentication.
    let alice = "0001 alice@device-1: start at 1795311369000 from 10.78.0.11:50764";
    assert_eq!(told, [alice]);
    assert_eq!(agent.server.version(), Some("OpenVPN 2.6.14"));
}

#[test]
fn format_2_is_the_same_with_commas() {
    let commas = FORMAT_3.replace('\t', ",");
    assert_eq!(table(&commas), table(FORMAT_3));
}

#[test]
fn format_1_dates_starts_by_local_times_and_keeps_its_clients_over_restarts() {
    let mut agent = Agent::fresh();
    let now = at(1_795_339_738_500);
    let told = read(&mut agent, FORMAT_1, now);
    let expected = [
        "0001 alice@device-1: start at 1795339733000 from 10.99.0.31:33391",
        "0002 bob phone: start at 1795339737000 from fd99::12",
    ];
    let mut sorted = told.clone();
    sorted.sort_by_key(|line| line[5..].to_owned());
    assert_eq!(sorted.len(), 2);
    for (line, expected) in sorted.iter().zip(expected) {
        assert_eq!(line[5..], expected[5..]);
    }
    let mut agent = agent.restarted();
    assert_eq!(
        read(&mut agent, FORMAT_1, now.after(Duration::from_secs(9))),
        Vec::<String>::new()
    );
    assert_eq!(agent.reducer.unconfirmed_backends().count(), 0);
}

#[test]
fn clients_of_format_1_go_on_when_format_3_tells_their_numbers() {
    let mut agent = Agent::fresh();
    read(&mut agent, FORMAT_1, at(1_795_339_738_500));
    let since = [
        "2026-11-22 09:28:53\t1795339733",
        "2026-11-22 09:28:57\t1795339737",
    ];
    let told = read(
        &mut agent,
        &format!(
            "TIME\t2026-11-22 09:29:08\t1795339748\n\
             HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tBytes Received\t\
             Bytes Sent\tConnected Since\tConnected Since (time_t)\tClient ID\n\
             CLIENT_LIST\talice@device-1\t10.99.0.31:33391\t10.98.0.2\t3000\t3000\t{}\t4\n\
             CLIENT_LIST\tbob phone\tfd99::12\t10.98.0.3\t3000\t3000\t{}\t5\nEND\n",
            since[0], since[1]
        ),
        at(1_795_339_748_000),
    );
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(
        told.iter()
            .all(|line| line.contains("Rekey") || line.contains("VirtualIps"))
    );
}

#[test]
fn names_with_commas_are_read_where_one_reading_is_left() {
    let header = "HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Virtual IPv6 Address,\
        Bytes Received,Bytes Sent,Connected Since,Connected Since (time_t),Username,Client ID,Peer ID";
    let with = |row: &str| table(&format!("{header}\nCLIENT_LIST,{row}\nEND\n"));
    let plain = with("Acme, Inc,10.0.0.1:5,10.8.0.2,,1,2,2026-11-22 01:36:09,1795311369,UNDEF,0,0");
    assert_eq!(names(&plain), ["Acme, Inc"]);
    let user = with("a,10.0.0.1:5,10.8.0.2,,1,2,2026-11-22 01:36:09,1795311369,o,hara,7,0");
    assert_eq!(user.clients[0].username.as_deref(), Some(&b"o,hara"[..]));
    assert_eq!(user.clients[0].cid, Some(7));
    // A name that is itself a row: whose it is cannot be told, so absence means nothing.
    let forged = with(
        "x,6.6.6.6:6,10.8.0.9,,1,2,t,5,u,10.0.0.1:5,10.8.0.2,,1,2,2026-11-22 01:36:09,1795311369,UNDEF,0,0",
    );
    assert!(forged.clients.len() <= 1);
    assert!(names(&forged) != ["x"], "{:?}", forged.clients);
    let ambiguous = with("x,1.1.1.1:1,,,1,2,t,5,u,1,1.1.1.1:1,,,1,2,t,5,u,1,1");
    assert!(ambiguous.clients.is_empty() || !names(&ambiguous).contains(&"x".to_owned()));
}

#[test]
fn a_client_that_is_called_like_a_header_hides_nobody() {
    let forged = "Common Name,Real Address,x";
    let list = table(&format!(
        "OpenVPN CLIENT LIST\nUpdated,2026-11-22 01:36:20\n\
         Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since\n\
         {forged},10.0.0.1:5,1,2,2026-11-22 01:36:09\n\
         bob,10.0.0.2:5,1,2,2026-11-22 01:36:09\nROUTING TABLE\n\
         Virtual Address,Common Name,Real Address,Last Ref\nEND\n"
    ));
    assert_eq!(names(&list), [forged, "bob"]);
    assert!(!list.incomplete);
}

#[test]
fn a_client_that_is_called_undef_is_there() {
    let header = "HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Virtual IPv6 Address,\
        Bytes Received,Bytes Sent,Connected Since,Connected Since (time_t),Username,Client ID,Peer ID";
    let row = "UNDEF,10.0.0.1:5,10.8.0.2,,1,2,2026-11-22 01:36:09,1795311369,UNDEF,0,0";
    let list = table(&format!("{header}\nCLIENT_LIST,{row}\nEND\n"));
    assert!(list.clients[0].is_up(None));
}

#[test]
fn handshakes_that_never_end_are_nobody() {
    let lines: Vec<&str> = UNDEF
        .lines()
        .filter_map(|line| line.split_once("<<< ").map(|(_, text)| text))
        .collect();
    let mut rows = 0;
    for text in lines.join("\n").split_inclusive("\nEND") {
        if !text.contains("HEADER") || !text.ends_with("END") {
            continue;
        }
        let table = table(text.trim_start());
        rows += table.clients.len();
        let mut agent = Agent::fresh();
        let mut out = Outcome::default();
        agent
            .server
            .read_file(table, at(1_795_310_400_000), &mut out);
        assert_eq!(agent.take(out, at(1_795_310_400_000)), []);
    }
    assert!(rows > 5);
}

#[test]
fn an_unfinished_table_is_none() {
    for cut in 0..FORMAT_1.len() - 4 {
        assert!(file::parse(&FORMAT_1.as_bytes()[..cut]).is_none(), "{cut}");
    }
}

struct Followed {
    file: StatusFile,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Followed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.log");
        Self {
            file: StatusFile::new(path.clone()),
            path,
            _folder: folder,
        }
    }

    /// Written at that instant, by the file's own time.
    fn write(&self, text: &str, now: Now) {
        fs::write(&self.path, text).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_millis(now.wall_ms.unsigned_abs());
        let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.set_modified(time).unwrap();
    }
}

#[test]
fn a_file_that_does_not_change_ends_nobody_for_ten_minutes() {
    let mut followed = Followed::new();
    let start = at(1_795_400_000_000);
    followed.write(FORMAT_1, start);
    let later = |secs: u64| start.after(Duration::from_secs(secs));
    assert!(
        matches!(followed.file.look(start), Ok(Look::Nothing)),
        "just written"
    );
    assert!(matches!(followed.file.look(later(1)), Ok(Look::Table(_))));
    assert!(matches!(followed.file.look(later(11)), Ok(Look::Nothing)));
    let stale = STALE_AFTER.as_secs() + 1;
    assert!(matches!(
        followed.file.look(later(stale)),
        Err(Fault::Stale(_))
    ));
    let gone = GONE_AFTER.as_secs() + 1;
    assert!(matches!(followed.file.look(later(gone)), Ok(Look::Gone)));
    assert!(
        matches!(followed.file.look(later(gone + 10)), Err(Fault::Stale(_))),
        "told once"
    );
    followed.write(FORMAT_1, later(gone + 15));
    assert!(matches!(
        followed.file.look(later(gone + 20)),
        Ok(Look::Table(_))
    ));
}

#[test]
fn what_a_dead_daemon_left_is_no_news() {
    let mut followed = Followed::new();
    let now = at(1_795_400_000_000);
    followed.write(FORMAT_1, at(1_795_300_000_000));
    assert!(matches!(followed.file.look(now), Ok(Look::Gone)));
    // Nobody listens: a recent file counts once it changes, too.
    followed.file.begin(true);
    followed.write(FORMAT_1, now);
    let later = |secs: u64| now.after(Duration::from_secs(secs));
    assert!(matches!(followed.file.look(later(5)), Ok(Look::Nothing)));
    followed.write(FORMAT_1, later(10));
    assert!(matches!(followed.file.look(later(15)), Ok(Look::Table(_))));
}

#[test]
fn what_is_no_status_file_is_said() {
    let mut followed = Followed::new();
    let now = at(1_795_400_000_000);
    assert!(matches!(followed.file.look(now), Err(Fault::NoFile(_))));
    followed.write("hello\nEND\n", at(1_795_399_990_000));
    let later = now.after(Duration::from_secs(11));
    assert!(matches!(followed.file.look(later), Err(Fault::NoStatus(_))));
}
