// A film strip without a server: the pictures of a row side by side, as a PNG to keep.

const FRAMES = 12, HEIGHT = 200, GAP = 8, TEXT = 24;

export async function saveStrip(row, model) {
  const shown = row.frames.flatMap((frame, at) => (frame && frame.image !== undefined ? [[frame.image, at]] : []));
  const count = Math.min(FRAMES, shown.length);
  const chosen = [...Array(count).keys()].map((at) => shown[Math.round((at * (shown.length - 1)) / Math.max(1, count - 1))]);
  const frames = await Promise.all(chosen.map(async ([picture, at]) => {
    const image = new Image();
    const { source } = model.pictures[picture];
    image.src = source;
    await image.decode();
    const width = (image.naturalWidth * HEIGHT) / image.naturalHeight;
    return { image, width: Math.max(width, 110), drawn: width, name: model.events[at].name };
  }));
  const canvas = document.createElement("canvas");
  canvas.width = frames.reduce((sum, frame) => sum + frame.width + GAP, -GAP);
  canvas.height = HEIGHT + TEXT;
  const paint = canvas.getContext("2d");
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.fillStyle = "#1d1f22";
  paint.font = "13px sans-serif";
  paint.textAlign = "center";
  paint.imageSmoothingEnabled = false;
  let left = 0;
  for (const { image, width, drawn, name } of frames) {
    paint.drawImage(image, left + (width - drawn) / 2, 0, drawn, HEIGHT);
    paint.fillText(name, left + width / 2, HEIGHT + 17, width);
    left += width + GAP;
  }
  const link = document.createElement("a");
  link.setAttribute("href", canvas.toDataURL("image/png"));
  link.download = `${row.key.replace(/[^\w.-]+/g, "_")}.png`;
  link.click();
}
