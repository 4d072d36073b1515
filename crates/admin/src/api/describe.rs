//! What the description of every operation has in common, and what the attributes of the handlers therefore leave out.

use utoipa::openapi::{OpenApi, PathItem, RefOr, path::Operation};

/// Gives each operation an id of its own, `TAG_FUNCTION`, and each response a description: without them the document is no `OpenAPI` 3.1,
/// and clients cannot be generated from it.
pub(super) fn complete(openapi: &mut OpenApi) {
    let items = openapi.paths.paths.values_mut();
    for operation in items.flat_map(operations) {
        let tag = operation.tags.iter().flatten().next();
        if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
            operation.operation_id = Some(format!("{tag}_{id}"));
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                meaning(status).clone_into(&mut response.description);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

/// What a status means where nothing more is to be said.
fn meaning(status: &str) -> &'static str {
    match status {
        "200" => "What was asked for, or what was done",
        "201" => "It is there from now on",
        "400" => "The request makes no sense",
        "401" => "Without a token, or with one that opens nothing",
        "403" => "The caller may not do this",
        "404" => "There is no such thing",
        "409" => "Not as things are",
        "422" => "What is asked for is wrong in itself",
        "429" => "Too often: `Retry-After` says when to come back",
        "503" => "Not by this process, or not now",
        _ => "As its status says",
    }
}
