// The data of a piece: the object itself, or {deflate} with its packed JSON. Throws where DecompressionStream is missing.
async function unpacked(data) {
  if (!data.deflate) return data;
  const bytes = Uint8Array.from(atob(data.deflate), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
