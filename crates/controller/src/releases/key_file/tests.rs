//! Key files open with their passphrase, and nothing else passes for one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

/// Quick to open, for tests.
const CHEAP: Cost = Cost {
    memory_kib: 16,
    passes: 1,
    lanes: 1,
};

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

fn made() -> (tempfile::TempDir, PathBuf, SigningKey) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alice.key");
    let key = create(&path, &passphrase("correct horse"), CHEAP).unwrap();
    (dir, path, key)
}

fn error(path: &Path, words: &str) -> String {
    let opened = KeyFile::read(path).and_then(|file| file.open(&passphrase(words)));
    opened.map(drop).unwrap_err().to_string()
}

#[test]
fn it_opens_with_its_passphrase_and_with_no_other() {
    let (_dir, path, key) = made();
    let file = KeyFile::read(&path).unwrap();
    assert_eq!(file.open(&passphrase("correct horse")).unwrap(), key);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let public = read_public(&public_path(&path)).unwrap();
    assert_eq!(public, Key::ed25519(&key.verifying_key()));
    let said = error(&path, "correct house");
    assert!(
        said.contains("passphrase") && said.contains(&short_id(&public)),
        "{said}"
    );
    let again = create(&path, &passphrase("another one"), CHEAP).map(drop);
    assert!(again.unwrap_err().to_string().contains("exists already"));
    assert_eq!(
        KeyFile::read(&path)
            .unwrap()
            .open(&passphrase("correct horse"))
            .unwrap(),
        key
    );
}

#[test]
fn a_cut_or_changed_file_is_damaged_and_no_wrong_passphrase() {
    let (_dir, path, _) = made();
    let whole = fs::read(&path).unwrap();
    for end in 0..whole.len() - 2 {
        fs::write(&path, &whole[..end]).unwrap();
        let said = error(&path, "correct horse");
        assert!(said.contains("damaged"), "{end}: {said}");
    }
    let text = String::from_utf8(whole).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in ["public", "salt", "nonce"] {
        let digits = value["header"][field].as_str().unwrap();
        let other = format!(
            "{}{}",
            if digits.starts_with('0') { '1' } else { '0' },
            &digits[1..]
        );
        fs::write(&path, text.replace(digits, &other)).unwrap();
        let said = error(&path, "correct horse");
        assert!(said.contains("damaged"), "{field}: {said}");
    }
    fs::write(&path, vec![b' '; 5000]).unwrap();
    assert!(error(&path, "correct horse").contains("larger"));
}

#[test]
fn another_header_does_not_open_even_with_a_checksum_that_fits() {
    let (_dir, path, _) = made();
    let mut file = KeyFile::read(&path).unwrap();
    let other = SigningKey::from_bytes(&[7; 32]).verifying_key();
    file.sealed.header.public = hex(other.as_bytes());
    let refused = file.open(&passphrase("correct horse")).map(drop);
    assert!(matches!(refused, Err(KeyFileError::WrongPassphrase { .. })));
}

#[test]
fn a_file_that_asks_for_too_much_work_or_is_newer_is_not_opened() {
    let (_dir, path, _) = made();
    for (change, says) in [
        (
            &(|header: &mut Header| header.cost.memory_kib = u32::MAX) as &dyn Fn(&mut Header),
            "more work",
        ),
        (&|header| header.cost.passes = 1_000_000, "more work"),
        (&|header| header.kdf = "md5".into(), "other algorithms"),
        (&|header| header.format = 2, "newer"),
        (&|header| header.format = 0, "no format"),
    ] {
        let mut sealed = KeyFile::read(&path).unwrap().sealed;
        change(&mut sealed.header);
        sealed.checksum = sealed.header.checksum(&sealed.sealed);
        let other = path.with_extension("changed");
        fs::write(&other, serde_json::to_vec(&sealed).unwrap()).unwrap();
        let said = error(&other, "correct horse");
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_public_half_has_one_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pub");
    for bad in [
        "".to_owned(),
        "{}".to_owned(),
        r#"{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"00"}}"#.to_owned(),
        // The identity: a point of small order.
        format!(
            r#"{{"keytype":"ed25519","scheme":"ed25519","keyval":{{"public":"01{}"}}}}"#,
            "00".repeat(31)
        ),
        r#"{"keytype":"rsa","scheme":"rsassa-pss-sha256","keyval":{"public":"x"}}"#.to_owned(),
    ] {
        fs::write(&path, &bad).unwrap();
        assert!(
            matches!(read_public(&path), Err(KeyFileError::NotPublic { .. })),
            "{bad}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        fs::write(&path, bytes).unwrap();
        prop_assert!(KeyFile::read(&path).is_err() && read_public(&path).is_err());
    }
}
