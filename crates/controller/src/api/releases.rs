//! `metadata/` and `targets/` of the release repository, as files. Everything in it is signed and
//! public, so nobody has to prove who he is; connections are as few as those of any newcomer, and
//! whoever reads a package has more time for it.
//!
//! Only names that a repository has are looked for: no directory is listed, no name leads out of
//! the tree, and temporary files (which begin with a dot) have no address.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use tower_http::services::ServeFile;

use super::{App, seat_of};

/// `timestamp.json` changes: whoever keeps it asks each time whether it is still the same.
const CHANGES: HeaderValue = HeaderValue::from_static("no-cache");
/// Every other name has its version or hash in it.
const NEVER_CHANGES: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PACKAGE: HeaderValue = HeaderValue::from_static("application/zstd");

pub(super) async fn metadata(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    if !is_metadata(&name) {
        return nothing();
    }
    let caching = if name == "timestamp.json" {
        CHANGES
    } else {
        NEVER_CHANGES
    };
    let file = app.releases.dir().join("metadata").join(name);
    serve(file, JSON, caching, request).await
}

pub(super) async fn target(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    request: Request,
) -> Response<Body> {
    if !is_target(&path) {
        return nothing();
    }
    if let Some(seat) = seat_of(&request) {
        seat.read_release();
    }
    let file = app.releases.dir().join("targets").join(path);
    serve(file, PACKAGE, NEVER_CHANGES, request).await
}

async fn serve(
    file: PathBuf,
    kind: HeaderValue,
    caching: HeaderValue,
    request: Request,
) -> Response<Body> {
    let served = ServeFile::new(file).try_call(request).await;
    let mut response = match served {
        Ok(response) => response.map(Body::new),
        Err(error) if error.kind() == ErrorKind::NotFound => return nothing(),
        Err(error) => {
            tracing::warn!(%error, "a file of the releases cannot be read");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let status = response.status();
    let headers = response.headers_mut();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, caching);
    } else {
        // What is not there now may be there in a moment: the next root.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn nothing() -> Response<Body> {
    let caching = [(header::CACHE_CONTROL, "no-store")];
    (StatusCode::NOT_FOUND, caching).into_response()
}

/// `timestamp.json`, or `N.ROLE.json`.
fn is_metadata(name: &str) -> bool {
    if name == "timestamp.json" {
        return true;
    }
    let Some((version, role)) = name
        .strip_suffix(".json")
        .and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    let is_version =
        (1..=16).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit());
    is_version && matches!(role, "root" | "snapshot" | "targets")
}

/// `vpn-node/VERSION/SHA256.PLATFORM.tar.zst`.
fn is_target(path: &str) -> bool {
    let mut parts = path.split('/');
    let (Some("vpn-node"), Some(version), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let plain = |text: &str| {
        !text.is_empty()
            && text.len() <= 128
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let hash = name.split('.').next().unwrap_or_default();
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    plain(version) && plain(name) && is_hash && name.ends_with(".tar.zst")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_repository_are_looked_for() {
        for good in [
            "timestamp.json",
            "1.root.json",
            "12.targets.json",
            "9007199254740991.snapshot.json",
        ] {
            assert!(is_metadata(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "root.json",
            ".new-timestamp.json",
            "1.root.json/..",
            "../lock",
            "1.root",
            "x.root.json",
            "-1.root.json",
            "1.online.json",
            "1..root.json",
            "12345678901234567.root.json",
            "1.root.json\0",
            "1.timestamp.json",
        ] {
            assert!(!is_metadata(bad), "{bad:?}");
        }
        let hash = "0".repeat(64);
        assert!(is_target(&format!(
            "vpn-node/1.5.0-rc.1/{hash}.linux-amd64.tar.zst"
        )));
        for bad in [
            String::new(),
            "vpn-node".to_owned(),
            "vpn-node/1.5.0".to_owned(),
            format!("vpn-node/../{hash}.linux-amd64.tar.zst"),
            format!("vpn-node/1.5.0/../{hash}.linux-amd64.tar.zst"),
            format!("other/1.5.0/{hash}.linux-amd64.tar.zst"),
            format!("vpn-node/1.5.0/.new-{hash}.linux-amd64.tar.zst"),
            format!("vpn-node//{hash}.linux-amd64.tar.zst"),
            format!("vpn-node/1.5.0/{hash}.linux-amd64.tar.zst/"),
            format!("/vpn-node/1.5.0/{hash}.linux-amd64.tar.zst"),
            format!("vpn-node/1.5.0/{hash}.x%2f.tar.zst"),
            "vpn-node/1.5.0/linux-amd64.tar.zst".to_owned(),
        ] {
            assert!(!is_target(&bad), "{bad}");
        }
    }
}
