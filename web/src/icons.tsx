/** Small pictures, drawn by hand. */

const paths = {
  lock: 'M7 10V8a5 5 0 0 1 10 0v2M6 10h12v9H6z',
  plus: 'M12 5v14M5 12h14',
  stop: 'M7 7h10v10H7z',
  send: 'M12 19V5M6 11l6-6 6 6',
  again: 'M20 11a8 8 0 1 0-2 6M20 5v6h-6',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  done: 'M5 13l4 4L19 7',
  trash: 'M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13',
  wire: 'M3 12h4l3-7 4 14 3-7h4',
  menu: 'M4 7h16M4 12h16M4 17h16',
  close: 'M6 6l12 12M18 6L6 18',
  alert: 'M12 4l9 16H3zM12 10v4M12 17v.5',
} as const;

export function Icon({ name }: { name: keyof typeof paths }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}
