//! The APIs that a broker's client listener serves in Kafka 4.3.1.

use crate::header::RequestHeaderVersion;

macro_rules! api_table {
    ($($name:ident $key:literal $min:literal $max:literal $flexible:expr,)*) => {
        /// An API, by its key on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs)] // the names are Kafka's
        pub enum ApiKey { $($name = $key),* }

        impl ApiKey {
            /// The API with this key, if the client listener knows it.
            pub fn from_i16(key: i16) -> Option<Self> {
                match key { $($key => Some(Self::$name),)* _ => None }
            }

            /// Its row of the table.
            pub fn info(self) -> &'static ApiInfo {
                match self {
                    $(Self::$name => {
                        const INFO: ApiInfo = ApiInfo {
                            key: ApiKey::$name,
                            name: stringify!($name),
                            min: $min,
                            max: $max,
                            flexible_from: $flexible,
                        };
                        &INFO
                    })*
                }
            }

            /// Every API, by ascending key.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/api.rs"));

/// What is known of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiInfo {
    /// Its key.
    pub key: ApiKey,
    /// Kafka's name of it.
    pub name: &'static str,
    /// The first version that can be decoded.
    pub min: i16,
    /// The last version that can be decoded.
    pub max: i16,
    /// The first version with compact lengths and tags, `i16::MAX` when none has.
    pub flexible_from: i16,
}

impl ApiInfo {
    /// Whether requests of this version can be decoded.
    pub fn has(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Whether this version has compact lengths and tags.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// The lowest version to advertise. Produce says 0, though versions below 3 are refused: older
    /// librdkafka would not compress otherwise (KAFKA-18659).
    pub fn advertised_min(&self) -> i16 {
        if self.key == ApiKey::Produce {
            0
        } else {
            self.min
        }
    }

    /// Version of the header before a request.
    pub fn request_header_version(&self, version: i16) -> RequestHeaderVersion {
        if self.is_flexible(version) {
            RequestHeaderVersion::V2
        } else {
            RequestHeaderVersion::V1
        }
    }

    /// Version of the header before a response: 1 has a tag section. That of ApiVersions is always
    /// 0, so that a client can read the answer to a version that the broker does not know.
    pub fn response_header_version(&self, version: i16) -> i16 {
        i16::from(self.is_flexible(version) && self.key != ApiKey::ApiVersions)
    }
}

impl ApiKey {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.info().name)
    }
}
