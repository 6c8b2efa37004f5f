//! One connection to one broker: frames, correlation ids, negotiated versions.

use crate::ClientError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The largest answer that is read, in bytes.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// ApiVersions is asked for at this version first.
const API_VERSIONS_VERSION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;

/// A connection with the versions that the broker supports.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: String,
    client_id: String,
    correlation: i32,
    timeout: Duration,
    versions: BTreeMap<i16, (i16, i16)>,
}

impl Connection {
    /// Connects to `host:port` and negotiates versions. `timeout` holds for the connect and for
    /// every answer.
    pub fn open(address: &str, client_id: &str, timeout: Duration) -> Result<Self, ClientError> {
        let stream = dial(address, timeout).map_err(|error| ClientError::Io {
            address: address.to_owned(),
            error,
        })?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            client_id: client_id.to_owned(),
            correlation: 0,
            timeout,
            versions: BTreeMap::new(),
        };
        connection.negotiate()?;
        Ok(connection)
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The versions of an API that the broker supports.
    pub fn broker_versions(&self, key: i16) -> Option<(i16, i16)> {
        self.versions.get(&key).copied()
    }

    /// Every API that the broker advertises with its versions.
    pub fn apis(&self) -> &BTreeMap<i16, (i16, i16)> {
        &self.versions
    }

    /// The newest version of an API that both ends speak, `cap` at most.
    pub fn version<R: Request>(&self, cap: i16) -> Result<i16, ClientError> {
        let name = || format!("{:?}", ApiKey::try_from(R::KEY).ok());
        let unsupported = || ClientError::Unsupported(name());
        let (min, max) = *self.versions.get(&R::KEY).ok_or_else(unsupported)?;
        let version = max.min(R::VERSIONS.max).min(cap);
        if version < min.max(R::VERSIONS.min) {
            return Err(unsupported());
        }
        Ok(version)
    }

    /// Sends a request at the newest common version (`cap` at most) and waits for its answer.
    pub fn call<R: Request>(&mut self, request: &R, cap: i16) -> Result<R::Response, ClientError> {
        let version = self.version::<R>(cap)?;
        self.call_at(request, version, Duration::ZERO)
    }

    /// As [`Connection::call`] at exactly this version. `extra` is how long the broker may hold the
    /// request back.
    pub fn call_at<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        extra: Duration,
    ) -> Result<R::Response, ClientError> {
        self.send(request, version)?;
        let body = self.receive(extra)?;
        self.parse::<R>(body, version)
    }

    /// Sends a request without waiting (acks=0 has no answer).
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<(), ClientError> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_string(self.client_id.clone())));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|e| ClientError::Unsupported(format!("this request: {e}")))?;
        let len = i32::try_from(frame.len() - 4)
            .map_err(|_| ClientError::Unsupported("a request this large".to_owned()))?;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        self.stream.write_all(&frame).map_err(|e| self.io(e))
    }

    /// Reads one whole answer, header included.
    pub fn receive(&mut self, extra: Duration) -> Result<Bytes, ClientError> {
        let timeout = Some(self.timeout + extra);
        self.stream
            .set_read_timeout(timeout)
            .map_err(|e| self.io(e))?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).map_err(|e| self.io(e))?;
        let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if !(4..=FRAME_BYTES_MAX).contains(&size) {
            return Err(ClientError::Malformed(format!("a frame of {size} bytes")));
        }
        let mut body = Vec::new();
        let read = (&mut self.stream).take(size as u64).read_to_end(&mut body);
        match read.map_err(|e| self.io(e))? {
            n if n == size => Ok(Bytes::from(body)),
            _ => Err(self.io(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn parse<R: Request>(&self, mut body: Bytes, version: i16) -> Result<R::Response, ClientError> {
        let malformed = |e| ClientError::Malformed(format!("{e}"));
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut body, header_version).map_err(malformed)?;
        if header.correlation_id != self.correlation {
            return Err(ClientError::Malformed(format!(
                "correlation id {} for request {}",
                header.correlation_id, self.correlation
            )));
        }
        let response = R::Response::decode(&mut body, version).map_err(malformed)?;
        if body.has_remaining() {
            let left = body.remaining();
            return Err(ClientError::Malformed(format!("{left} bytes left over")));
        }
        Ok(response)
    }

    fn negotiate(&mut self) -> Result<(), ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("flumen-client"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        self.send(&request, API_VERSIONS_VERSION)?;
        let body = self.receive(Duration::ZERO)?;
        // A broker that doesn't know the version answers with version 0 and this code behind the
        // correlation id.
        let code = body
            .get(4..6)
            .map_or(0, |b| i16::from_be_bytes([b[0], b[1]]));
        let response: ApiVersionsResponse = if code == UNSUPPORTED_VERSION {
            self.call_at(&ApiVersionsRequest::default(), 0, Duration::ZERO)?
        } else {
            self.parse::<ApiVersionsRequest>(body, API_VERSIONS_VERSION)?
        };
        ClientError::check(response.error_code, || "ApiVersions".to_owned())?;
        let range = |k: &kafka_protocol::messages::api_versions_response::ApiVersion| {
            (k.api_key, (k.min_version, k.max_version))
        };
        self.versions = response.api_keys.iter().map(range).collect();
        Ok(())
    }

    fn io(&self, error: io::Error) -> ClientError {
        let error = match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
            }
            io::ErrorKind::UnexpectedEof => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker closed the connection",
            ),
            _ => error,
        };
        ClientError::Io {
            address: self.address.clone(),
            error,
        }
    }
}

fn dial(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}
