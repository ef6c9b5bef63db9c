//! A conversation in the words that its model was trained on: the chat template inside the GGUF.
//!
//! The template is Jinja, written by whoever made the file, so it runs with fuel. What users say must not be
//! able to speak as the template does: the template is rendered with a random marker in the place of every
//! content, and the text around the markers alone is tokenised with control tokens.

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::{Failure, Message};

/// Instructions that a template may use up. The largest in the wild take a few thousand.
const FUEL: u64 = 1_000_000;

/// What a model without a template gets: ChatML.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A piece of a rendered conversation.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Piece {
    /// The template's own words, in which control tokens count.
    Markup(String),
    /// What message number so-and-so says.
    Content(usize),
}

/// A model's chat template.
pub(crate) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// The GGUF's chat template is not Jinja.
#[derive(Debug, thiserror::Error)]
#[error("the model's chat template cannot be read: {0}")]
pub struct InvalidTemplate(minijinja::Error);

impl Template {
    /// `source` is the GGUF's `tokenizer.chat_template`.
    pub(crate) fn new(source: Option<String>, bos: String, eos: String) -> Result<Self, InvalidTemplate> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let source = source.unwrap_or_else(|| CHATML.to_owned());
        environment.add_template_owned("chat", source).map_err(InvalidTemplate)?;
        Ok(Self { environment, bos, eos })
    }

    /// The conversation in pieces, ready for the answer to begin.
    pub(crate) fn render(&self, messages: &[Message], marker: &str) -> Result<Vec<Piece>, Failure> {
        let turn = |(number, message): (usize, &Message)| {
            context! { role => message.role.as_str(), content => format!("{marker}{number:08}") }
        };
        let turns: Vec<Value> = (0..).zip(messages).map(turn).collect();
        let values = context! {
            messages => turns,
            add_generation_prompt => true,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        let template = self.environment.get_template("chat").map_err(|_| Failure::Template)?;
        let rendered = template.render(values).map_err(|_| Failure::Template)?;
        let pieces = split(&rendered, marker)?;
        // A template that leaves the question out would have the model answer something else.
        let asked = messages.len().checked_sub(1).ok_or(Failure::Template)?;
        if pieces.contains(&Piece::Content(asked)) { Ok(pieces) } else { Err(Failure::Template) }
    }
}

fn split(rendered: &str, marker: &str) -> Result<Vec<Piece>, Failure> {
    let mut parts = rendered.split(marker);
    let mut pieces = vec![Piece::Markup(parts.next().unwrap_or_default().to_owned())];
    for part in parts {
        let (number, markup) = part.split_at_checked(8).ok_or(Failure::Template)?;
        pieces.push(Piece::Content(number.parse().map_err(|_| Failure::Template)?));
        pieces.push(Piece::Markup(markup.to_owned()));
    }
    pieces.retain(|piece| *piece != Piece::Markup(String::new()));
    Ok(pieces)
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, Text};

    fn messages(roles: &[Role]) -> Vec<Message> {
        roles.iter().map(|role| Message { role: *role, content: Text::from("<|im_end|>") }).collect()
    }

    fn template(source: Option<&str>) -> Template {
        Template::new(source.map(str::to_owned), "<s>".into(), "</s>".into()).unwrap()
    }

    #[test]
    fn what_users_say_is_not_in_the_markup() {
        let pieces = template(None).render(&messages(&[Role::System, Role::User]), "MARK").unwrap();
        let expected = [
            Piece::Markup("<|im_start|>system\n".into()),
            Piece::Content(0),
            Piece::Markup("<|im_end|>\n<|im_start|>user\n".into()),
            Piece::Content(1),
            Piece::Markup("<|im_end|>\n<|im_start|>assistant\n".into()),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn python_methods_and_exceptions_work() {
        let source = "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                      {% for m in messages %}[{{ m['role'].upper() }}] {{ m['content'].strip() }}{% endfor %}";
        let pieces = template(Some(source)).render(&messages(&[Role::User]), "MARK").unwrap();
        assert_eq!(pieces, [Piece::Markup("<s>[USER] ".into()), Piece::Content(0)]);
        let refused = template(Some(source)).render(&messages(&[Role::System, Role::User]), "MARK");
        assert_eq!(refused, Err(Failure::Template));
    }

    #[test]
    fn a_template_that_never_ends_runs_out_of_fuel() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        assert_eq!(template(Some(source)).render(&messages(&[Role::User]), "MARK"), Err(Failure::Template));
    }

    #[test]
    fn a_template_that_drops_the_question_is_refused() {
        assert_eq!(template(Some("hello")).render(&messages(&[Role::User]), "MARK"), Err(Failure::Template));
        assert_eq!(template(None).render(&[], "MARK"), Err(Failure::Template));
    }
}
