// A picture with its boxes as a PNG file.

function paintBoxes(image, marks, colours) {
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [image.naturalWidth, image.naturalHeight];
  const pen = sheet.getContext("2d");
  pen.drawImage(image, 0, 0);
  const unit = Math.max(sheet.width, sheet.height) / 640;
  pen.font = `600 ${Math.max(12, 13 * unit)}px sans-serif`;
  pen.textBaseline = "bottom";
  const high = Math.max(16, 18 * unit);
  for (const mark of marks) {
    const { fill, ink } = colours(mark.group);
    const [x1, y1, x2, y2] = mark.box.map((side, at) => side * (at % 2 ? sheet.height : sheet.width));
    pen.lineWidth = Math.max(2, 3 * unit);
    pen.strokeStyle = fill;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (!mark.label) continue;
    const wide = Math.min(pen.measureText(mark.label).width + 8 * unit, sheet.width);
    const left = clamp(x1, 0, sheet.width - wide);
    const top = y1 >= high ? y1 - high : y1;
    pen.fillStyle = fill;
    pen.fillRect(left, top, wide, high);
    pen.fillStyle = ink;
    pen.fillText(mark.label, left + 4 * unit, top + high - 2 * unit, wide - 6 * unit);
  }
  return sheet;
}

function download(sheet, name) {
  sheet.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}
