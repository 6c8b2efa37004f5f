//! Topics that the broker itself wants: those that clients ask about, its own, and those of streams
//! groups.

use crate::ops::OpResult;
use flumen_base::{ErrorCode, Prng};
use flumen_quorum::controller::{self, Context, Decision};
use flumen_wire::messages::create_topics_request::CreatableTopic;
use flumen_wire::messages::{CreateTopicsRequest, CreateTopicsResponse};

/// What is to be created.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// With the broker's defaults.
    ByDefaults(Vec<String>),
    AsTheyAre(Vec<CreatableTopic<'static>>),
}

/// What is said of a topic that could not be tried.
const NO_CONTROLLER: &str = "The controller is not available.";

impl Wanted {
    /// What the controller makes of it.
    pub(crate) fn decide(
        &self,
        ctx: &Context<'_>,
        prng: &mut Prng,
    ) -> Decision<CreateTopicsResponse<'static>> {
        match self {
            Self::ByDefaults(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                controller::auto_create_topics(ctx, prng, &names)
            }
            Self::AsTheyAre(topics) => {
                let request = CreateTopicsRequest {
                    topics: topics.clone(),
                    ..CreateTopicsRequest::default()
                };
                controller::create_topics(ctx, prng, &request)
            }
        }
    }

    /// The result when the controller has decided.
    pub(crate) fn result(&self, response: &CreateTopicsResponse<'_>) -> OpResult {
        let topics = response.topics.iter().map(|t| {
            let error = ErrorCode::from_i16(t.error_code);
            let error = error.unwrap_or(ErrorCode::UnknownServerError);
            (t.name.to_string(), error, t.error_message.as_deref())
        });
        match self {
            Self::ByDefaults(_) => {
                OpResult::AutoCreate(topics.map(|(name, error, _)| (name, error)).collect())
            }
            Self::AsTheyAre(_) => {
                let why = |error: ErrorCode, message: Option<&str>| {
                    let message = message.filter(|m| !m.is_empty());
                    (!error.is_none()).then(|| message.map_or(error.to_string(), str::to_owned))
                };
                OpResult::CreatedTopics(
                    topics
                        .map(|(name, error, message)| (name, why(error, message)))
                        .collect(),
                )
            }
        }
    }

    /// The result where there is no controller to decide.
    pub(crate) fn refused(&self) -> OpResult {
        match self {
            Self::ByDefaults(_) => OpResult::AutoCreate(Vec::new()),
            Self::AsTheyAre(topics) => {
                let refused = |t: &CreatableTopic<'_>| {
                    let why = NO_CONTROLLER.to_owned();
                    (t.name.to_string(), Some(why))
                };
                OpResult::CreatedTopics(topics.iter().map(refused).collect())
            }
        }
    }
}
