/**
 * Markdown of a model's, made safe: what a model says is somebody's input.
 *
 * Three walls, each enough for what is known: raw HTML is shown and not taken, what is made of the rest is cleaned to a short
 * list, and the page's policy (no inline script, Trusted Types) runs nothing that would get through.
 */

import DOMPurify from 'dompurify';
import { Marked } from 'marked';

const asText = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => asText(text),
    // The page's own headings are above those of an answer.
    heading({ tokens, depth }) {
      const text = this.parser.parseInline(tokens);
      const level = Math.min(depth + 2, 6);
      return text.trim() === '' ? '' : `<h${level}>${text}</h${level}>`;
    },
    // An image would tell its host that it was looked at.
    image: ({ text, href }) => asText(`${text || 'image'} (${href})`),
  },
});

const TAGS = [
  ...['p', 'br', 'hr', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'a'],
  ...['ul', 'ol', 'li', 'h3', 'h4', 'h5', 'h6'],
  ...['table', 'thead', 'tbody', 'tr', 'th', 'td'],
];

const purifier = DOMPurify(window);

purifier.addHook('uponSanitizeAttribute', (node, attribute) => {
  const language = node.nodeName === 'CODE' && /^language-[\w+#.-]{1,30}$/.test(attribute.attrValue);
  if (attribute.attrName === 'class' && !language) attribute.keepAttr = false;
});

purifier.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
  const href = node.getAttribute('href');
  if (href) node.setAttribute('title', href);
});

/** What may be given to `innerHTML`. */
export function render(text: string): string {
  const made = clean(toHtml(text));
  // The sanitiser leaves out what is nested too deeply: then the words are shown as they are.
  const isEmpty =
    String(made)
      .replaceAll(/<[^>]*>/g, '')
      .trim() === '' && !/<hr/.test(String(made));
  return isEmpty ? clean(plain(text)) : made;
}

/** What is nested too deeply to be read is shown as it is: a model that is stuck says such things. */
function toHtml(text: string): string {
  try {
    return marked.parse(text, { async: false });
  } catch {
    return plain(text);
  }
}

function plain(text: string): string {
  return `<p>${asText(text).replaceAll('\n', '<br>')}</p>`;
}

function clean(html: string): string {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ['href', 'class', 'start', 'align'],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_TRUSTED_TYPE: true,
  }) as unknown as string;
}
