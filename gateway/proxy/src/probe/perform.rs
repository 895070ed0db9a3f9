//! Asking over TCP and HTTP/1.1, as the kubelet would: any certificate will do, and only the status counts.

use super::HttpGet;
use crate::tls::provider;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Redirects within the application that are followed.
const REDIRECTS: usize = 10;
/// How a kubelet begins to name itself.
const KUBELET: &[u8] = b"kube-probe/";

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|error| format!("the container does not take connections on port {}: {error}", address.port()))
}

pub(super) async fn http(get: &HttpGet, pod: IpAddr, agent: Option<&HeaderValue>) -> Result<(), String> {
    let address = SocketAddr::new(pod, get.port);
    let mut target = get.target.clone();
    for _ in 0..=REDIRECTS {
        let (status, location) = fetch(get, address, &target, agent).await?;
        match (status.as_u16(), location.and_then(|location| within(&location, get, address))) {
            (200..=299, _) => return Ok(()),
            (300..=399, Some(next)) => target = next,
            // Elsewhere it is not for us to say whether it is good; the kubelet takes it for success too.
            (300..=399, None) => return Ok(()),
            _ => return Err(format!("the container answered {status}")),
        }
    }
    Err(format!("the container answered with more than {REDIRECTS} redirects"))
}

async fn fetch(
    get: &HttpGet,
    address: SocketAddr,
    target: &PathAndQuery,
    agent: Option<&HeaderValue>,
) -> Result<(StatusCode, Option<HeaderValue>), String> {
    let tcp = connect(address).await?;
    if !get.tls {
        return exchange(tcp, get, address, target, agent).await;
    }
    let name = ServerName::from(address.ip());
    let tls = TlsConnector::from(any_certificate()?).connect(name, tcp).await;
    exchange(tls.map_err(|error| format!("TLS with the container failed: {error}"))?, get, address, target, agent).await
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin,
    get: &HttpGet,
    address: SocketAddr,
    target: &PathAndQuery,
    agent: Option<&HeaderValue>,
) -> Result<(StatusCode, Option<HeaderValue>), String> {
    let broken = |error: hyper::Error| format!("the container gave no HTTP answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from(target.clone());
    let headers = request.headers_mut();
    let agent = agent.filter(|agent| agent.as_bytes().starts_with(KUBELET)).cloned();
    headers.insert(USER_AGENT, agent.unwrap_or(HeaderValue::from_static("selvage-probe")));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // One of the manifest replaces ours, more of one name stay side by side.
    for (name, _) in &get.headers {
        headers.remove(name);
    }
    for (name, value) in &get.headers {
        headers.append(name, value.clone());
    }
    if !headers.contains_key(HOST) {
        let host = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
        headers.insert(HOST, host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut asking = std::pin::pin!(sender.send_request(request));
    // Both make progress; a connection that ends in order may leave its answer behind.
    let response = tokio::select! {
        response = &mut asking => response,
        ended = connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(error),
        },
    }
    .map_err(broken)?;
    Ok((response.status(), response.headers().get(LOCATION).cloned()))
}

/// Where a redirect leads, if that is the same application.
fn within(location: &HeaderValue, get: &HttpGet, address: SocketAddr) -> Option<PathAndQuery> {
    let uri: Uri = location.to_str().ok()?.parse().ok()?;
    let Some(authority) = uri.authority() else { return uri.path_and_query().cloned() };
    let same_scheme = uri.scheme_str() == Some(if get.tls { "https" } else { "http" });
    let port = authority.port_u16().unwrap_or(if get.tls { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let same = same_scheme && port == address.port() && host.is_ok_and(|host| host == address.ip());
    same.then(|| uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")))
}

fn any_certificate() -> Result<Arc<ClientConfig>, String> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth()))
}

/// Takes every certificate: a probe asks whether the pod's own application lives, not who it is.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
