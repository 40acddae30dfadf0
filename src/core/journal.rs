//! The ids of what the agent says in the journal (`MESSAGE_ID=`): one table for the code, the catalog
//! (`systemd/vpn-node.catalog`, shown by `journalctl -x`) and `docs/journal.md`. A test compares them.
//!
//! An id is for ever: monitors look for it (`journalctl MESSAGE_ID=…`). An event that changes its
//! meaning gets a new one.

use std::fmt;

/// 128 bits in 32 small hexadecimal digits, made once by `systemd-id128 new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId(&'static str);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Its name in the documentation.
    pub name: &'static str,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $constant:ident $name:literal $id:literal)*) => {
        $($(#[$doc])* pub const $constant: MessageId = MessageId($id);)*

        /// All of them, in the order of the documentation.
        pub const ALL: &[Message] = &[$(Message { id: $constant, name: $name }),*];
    };
}

messages! {
    /// The agent has started.
    STARTED "started" "caf39cac63a54dc18e26d4e3d98bdc16"
    /// The agent cannot start, or had to stop.
    START_FAILED "start_failed" "cd8e9356bf6e44ed9ac626b982ed5f4d"
    /// The agent was told to stop.
    STOPPING "stopping" "678effb7951b4dd68717d80368d56d6a"
    /// The agent has stopped in order.
    STOPPED "stopped" "d5a5605595e0488ca1adf67eaaced361"
    /// The agent stops before everything is on disk.
    STOP_CUT_SHORT "stop_cut_short" "a337ac9d699f4e5a8f72b247354dc77f"
    /// A part of the agent has had the same work under way for too long.
    HANGS "hangs" "da19086c318f4c3d91d9fb4e96f85fe8"
    /// What hung goes on.
    GOES_ON "goes_on" "ac1510ede789401480c7803d601a34cb"
    /// The host denies the agent something that it can do without.
    HOST_UNUSUAL "host_unusual" "8bf0cba1076e415882e2d8189960e4b6"
    /// A changed configuration is in force.
    CONFIG_RELOADED "config_reloaded" "d4487df48c3d406d87bd4d736c136661"
    /// A changed configuration is not usable; the former one stays in force.
    CONFIG_REFUSED "config_refused" "bbf1356bbb18448f92c0242b80eadf47"
    /// A part of a changed configuration needs a restart.
    CONFIG_NEEDS_RESTART "config_needs_restart" "4d0b1b6ee4b64ef29c745e0218ed27e5"
    /// This host is enrolled.
    ENROLLED "enrolled" "c4cc55b4bf904e02b35c27ef81e78a62"
    /// This host is not enrolled.
    NOT_ENROLLED "not_enrolled" "2d48e30834054f3fbfe8b3c6f8b92d33"
    /// An enrolment failed and will be tried again.
    ENROLMENT_FAILED "enrolment_failed" "fe5af4fb12954945ad2539e3b684b419"
    /// The enrolment is done, with a remark.
    ENROLMENT_REMARK "enrolment_remark" "e75a83aaf0b84a3ab228fddf8bddae88"
    /// The controller vouches for this host.
    VERIFIED "verified" "697de73464ef454ca08b7cf470bc6c98"
    /// The controller is silent; the grace period runs.
    GRACE "grace" "451c36776c3f4f3b9c8470c2057d6352"
    /// Nobody vouches for this host any more.
    LAPSED "lapsed" "83609a5e4f734173ae1fb55fb80491fd"
    /// The controller stopped this host.
    HOST_STOPPED "host_stopped" "e9411457861b492b8e6bdfbb29defcdf"
    /// The controller does not answer, or not well.
    CONTROLLER_SILENT "controller_silent" "e4a6500a06dc4824bdd8d1d74f18e42f"
    /// The controller answers again.
    CONTROLLER_BACK "controller_back" "c2c58ac56f2d41a296fbc3859acf9734"
    /// The dates of the controller's TLS certificate do not fit this host's clock.
    CONTROLLER_DATES "controller_dates" "fd46cd075edc49a3896f517c2096fed2"
    /// The identity key was rotated.
    IDENTITY_ROTATED "identity_rotated" "792a2fb8374e40279d58c1ef4efeccb4"
    /// A file of an identity key that is not in force needs a look.
    IDENTITY_KEY_LEFT "identity_key_left" "e0c78afb5f594d53b88ce477c0b7f8dd"
    /// Something that the next start should know cannot be written.
    STATE_NOT_KEPT "state_not_kept" "a4a6043592da4a32a638050e3932e584"
    /// A directive of the controller was carried out.
    DIRECTIVE_APPLIED "directive_applied" "ec1eb892c29c401f80c51fe4b4f752e6"
    /// A directive of the controller was not carried out.
    DIRECTIVE_FAILED "directive_failed" "a45a41fd209440d999183c5b988f1287"
    /// A VPN daemon is read again.
    BACKEND_UP "backend_up" "7ded1537e25444d3a9c80d87b7c6b81c"
    /// A VPN daemon does not run.
    BACKEND_GONE "backend_gone" "144291072ffb44f6a3703f5651657a3b"
    /// A VPN daemon cannot be read.
    BACKEND_UNREADABLE "backend_unreadable" "c2f4a6b5d8ab4539a289a9489cbb480a"
    /// VPN daemons are read, or searched for, with less than they could tell.
    BACKEND_PARTIAL "backend_partial" "68bc763c05f24059bc0aea4565074e02"
    /// The connection ledger cannot be used; records wait in memory.
    LEDGER_FAILED "ledger_failed" "2a1cacf1f6a848009159c82db0084857"
    /// The connection ledger can be used again.
    LEDGER_RECOVERED "ledger_recovered" "bf924171f76f46acb11fe552deae95f1"
    /// The connection ledger is full, and its oldest records are given up.
    LEDGER_FULL "ledger_full" "bba1b2106b004903b01fee18a2356396"
    /// A damaged part of the connection ledger was set aside.
    LEDGER_DAMAGED "ledger_damaged" "aa49586a523c4fccb5c29001b1bfabfe"
    /// A small fault of the connection ledger was mended.
    LEDGER_MENDED "ledger_mended" "2f9292aab7434f8e983de435bfb386b5"
    /// Connection records are lost, and reported as lost.
    RECORDS_LOST "records_lost" "0654a9bafec3451a9881589049a7b0f3"
    /// A release is being installed.
    UPDATE_STAGED "update_staged" "c94e67f9616143cd921ec4851edc0850"
    /// A release was installed.
    UPDATE_INSTALLED "update_installed" "7ee3b214fd9f4184af8670a5ded58396"
    /// A release was not installed.
    UPDATE_REFUSED "update_refused" "0c6a9dca88204df78ca0c893aa8f45f2"
    /// A release ran badly and was taken back.
    UPDATE_ROLLED_BACK "update_rolled_back" "4e49f81dc3d84ff6a2f8774804d71059"
    /// Something about releases needs a look; nothing changed.
    UPDATE_REMARK "update_remark" "256719495a164c6983fd8da4cafbbd2b"
}

/// The configuration cannot be used (`ERROR_CODE=`).
pub const CODE_CONFIG_INVALID: &str = "config_invalid";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn file(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    fn is_id(text: &str) -> bool {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        text.len() == 32 && text.bytes().all(digit)
    }

    #[test]
    fn ids_and_names_are_well_formed_and_each_is_there_once() {
        let ids: BTreeSet<_> = ALL.iter().map(|message| message.id).collect();
        let names: BTreeSet<_> = ALL.iter().map(|message| message.name).collect();
        assert_eq!((ids.len(), names.len()), (ALL.len(), ALL.len()));
        assert!(ALL.iter().all(|message| is_id(&message.id.to_string())));
    }

    /// catalog(7): `-- ID`, headers, an empty line, text.
    #[test]
    fn the_catalog_explains_each_message_and_no_other() {
        let catalog = file("systemd/vpn-node.catalog");
        let mut explained = Vec::new();
        for entry in catalog.split("\n-- ").skip(1) {
            let (id, rest) = entry.split_once('\n').unwrap();
            let (headers, text) = rest.split_once("\n\n").unwrap();
            for header in [
                "Subject: ",
                "Defined-By: vpn-node",
                "Support: ",
                "Documentation: ",
            ] {
                let has = headers.lines().any(|line| line.starts_with(header));
                assert!(has, "{id}: no {header}");
            }
            // What happened, and what to do.
            assert!(text.trim().lines().count() >= 2, "{id}: {text}");
            explained.push(id.to_owned());
        }
        let ids: Vec<String> = ALL.iter().map(|message| message.id.to_string()).collect();
        assert_eq!(explained, ids);
    }

    #[test]
    fn the_page_lists_each_message_and_no_other() {
        let page = file("docs/journal.md");
        let rows = page.lines().filter_map(|line| {
            let mut cells = line
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().trim_matches('`'));
            let (name, id) = (cells.next()?, cells.next()?);
            is_id(id).then(|| (name.to_owned(), id.to_owned()))
        });
        let table = ALL
            .iter()
            .map(|message| (message.name.to_owned(), message.id.to_string()));
        assert_eq!(rows.collect::<Vec<_>>(), table.collect::<Vec<_>>());
    }

    /// Every line of the log that an operator sees has an id, at the priority that the page says; and
    /// every id is used.
    #[test]
    fn every_line_of_the_log_has_an_id_and_every_id_a_line() {
        let page = file("docs/journal.md");
        let mut used = BTreeSet::new();
        let mut faults = Vec::new();
        for path in sources() {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for (call, priority) in [("error", "error"), ("warn", "warning"), ("info", "info")] {
                for line in product.split(&format!("tracing::{call}!(")).skip(1) {
                    let name = line.trim_start().strip_prefix("message_id = %journal::");
                    let name = name.and_then(|rest| rest.split(',').next());
                    let name = name.unwrap_or("no id").to_lowercase();
                    let row = page
                        .lines()
                        .find(|row| row.starts_with(&format!("| `{name}` |")));
                    let of_row = row
                        .and_then(|row| row.split('|').nth(3))
                        .unwrap_or("no row");
                    if !of_row.contains(priority) {
                        faults.push(format!("{}: {priority} {name}: {of_row}", path.display()));
                    }
                    used.insert(name);
                }
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
        let names = ALL.iter().map(|message| message.name.to_owned());
        assert_eq!(used, names.collect());
    }

    fn sources() -> Vec<PathBuf> {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
            }
        }
        files
    }
}
