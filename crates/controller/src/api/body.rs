//! Reading a body: its announced size is judged before the first byte, its real one while reading.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use vpn_node_protocol::envelope::CONTENT_TYPE;

use super::problem::Problem;

/// How long a body may take: the largest one at 20 kB/s.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// Media types that a path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Envelopes only.
    Envelope,
    /// JSON; agents name it an envelope too.
    Json,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(request: Request, takes: Takes, limit: usize) -> Result<Bytes, Problem> {
    check_type(&request, takes)?;
    let announced = request.headers().get(header::CONTENT_LENGTH).map(|value| {
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    });
    match announced {
        Some(None) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "bad_length",
                "Content-Length is not a number",
            ));
        }
        Some(Some(size)) if size > limit as u64 => return Err(too_large(limit)),
        _ => {}
    }
    let whole = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(READ_DEADLINE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "broken_body",
            "the body broke off",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow_body",
            "the body did not come within 30 seconds",
        )),
    }
}

fn check_type(request: &Request, takes: Takes) -> Result<(), Problem> {
    let named = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim());
    let json = takes == Takes::Json && named == Some("application/json");
    if json || named == Some(CONTENT_TYPE) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "wrong_media_type",
        format!("the body must be of type {CONTENT_TYPE}"),
    ))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body may have {limit} bytes at most"),
    )
}
