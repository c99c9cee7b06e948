// Frames of clips on canvases. Two video elements draw all of them. Nothing is read back from a canvas, which browsers
// would refuse for files.
const LATE = [0.7], FOUR = [0.03, 0.35, 0.66, 0.97];
const FRAME_SECONDS = 1 / 24;
const KEPT = 40, STILL_MS = 90, FRAME_MS = 500, PATIENCE_MS = 15000;
const posters = new Map();  // by take, the least recently used first
const loaders = Array.from({ length: 2 }, () => make("video", { muted: true, playsInline: true, preload: "auto" }));
const idle = [...loaders];
let wanted = [], posterPixels = 320, stillAt = 0, stillTimer, restTimer;

function posterOf(take) {
  const known = posters.get(take);
  const canvas = known ?? make("canvas", { width: 0, height: 0 });
  posters.delete(take);
  posters.set(take, canvas);
  for (const [other, old] of posters) {
    if (posters.size <= KEPT) break;
    if (!old.isConnected && other !== take) forget(other, old);
  }
  if (!canvas.width) ask(take, canvas);
  return canvas;
}

function forget(take, canvas) {
  posters.delete(take);
  canvas.width = canvas.height = 0;  // its memory is free now, not when the garbage is collected
}

function forgetPosters() {
  for (const [take, canvas] of posters) forget(take, canvas);
  wanted = [];
}

function ask(take, canvas, done) {
  wanted.push({ take, canvas, done, times: view.four ? FOUR : LATE });
  scrollRests();
}

function scrollRests() {  // frames are drawn when the page stands still: what flies by needs none
  stillAt = performance.now() + STILL_MS;
  stillTimer ??= setTimeout(drawWanted, STILL_MS);
}

function drawWanted() {
  clearTimeout(stillTimer);
  stillTimer = undefined;
  const rest = stillAt - performance.now();
  if (rest > 0) {
    stillTimer = setTimeout(drawWanted, rest);
    return;
  }
  // new lines ask again for what waits already: a frame that is there is not drawn twice
  wanted = wanted.filter(({ canvas, done, tries }) => done || canvas.isConnected && (!canvas.width || tries));
  for (const { take, canvas } of wanted) standIn(take, canvas);
  while (wanted.length && idle.length) drawWith(idle.pop(), wanted.shift());
  clearTimeout(restTimer);
  restTimer = setTimeout(() => idle.length === loaders.length && idle.forEach(unload), 1500);
}

function standIn({ shot }, canvas) {  // the source image, where the page stands still and a frame is still to be drawn
  const well = canvas.closest(".well");
  if (!shot.src || shot.isUnseen || !well || well.querySelector(".stand-in")) return;
  const image = sourceImage(shot.src, "stand-in");
  image.onerror = () => { shot.isUnseen = true; image.remove(); };
  canvas.before(image);
}

async function drawWith(video, wish) {
  try {
    await drawFrames(video, wish);
    wish.canvas.parentElement?.querySelector(".stand-in")?.remove();
    wish.done?.();
  } catch (error) {
    wish.tries = (wish.tries ?? 0) + 1;
    if (error.message === "timeout" && wish.tries < 3) wanted.push(wish);
    else fail(wish);
  }
  idle.push(video);
  if (wanted.length) drawWanted();
}

function fail({ take, done }) {
  take.gone = true;
  paintTake(take);
  done?.();
}

async function drawFrames(video, { take, canvas, times }) {
  video.src = take.src;
  await happens(video, "loadeddata");
  const { videoWidth, videoHeight } = video, columns = times.length > 1 ? 2 : 1;
  const length = Number.isFinite(video.duration) ? video.duration : 0;
  take.size = [videoWidth, videoHeight, length];
  const scale = Math.min(1, posterPixels / columns / Math.max(videoWidth, videoHeight));
  const width = Math.max(1, Math.round(videoWidth * scale)), height = Math.max(1, Math.round(videoHeight * scale));
  for (const [at, time] of times.entries()) {
    await seek(video, Math.max(0, time * (length - FRAME_SECONDS)));
    if (!at) Object.assign(canvas, { width: width * columns, height: height * Math.ceil(times.length / columns) });
    const pen = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    pen.drawImage(video, (at % columns) * width, Math.floor(at / columns) * height, width, height);
  }
  learnRatio(take, videoWidth / videoHeight);
}

function learnRatio({ shot }, ratio) {
  if (shot.ratio || !Number.isFinite(ratio)) return;
  shot.ratio = Math.min(2.4, Math.max(0.5, ratio));
  layOutSoon();
}

// `seeked` may come before the frame: what is drawn then is the frame before, on a busy machine that of another clip.
async function seek(video, time) {
  const presented = video.requestVideoFrameCallback && frameAt(video, time);
  video.currentTime = time;
  await happens(video, "seeked");
  await presented;
}

function frameAt(video, time) {
  return new Promise((resolve) => {
    setTimeout(resolve, FRAME_MS);  // if it is there already, or the page is hidden, none is presented
    const look = (_, { mediaTime }) => {
      if (Math.abs(mediaTime - time) < 1.2 * FRAME_SECONDS) resolve();
      else video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
  });
}

function happens(video, name) {
  return new Promise((resolve, reject) => {
    const done = new AbortController(), once = { signal: done.signal };
    const end = (settle, value) => { done.abort(); clearTimeout(timer); settle(value); };
    const timer = setTimeout(end, PATIENCE_MS, reject, new Error("timeout"));
    video.addEventListener(name, () => end(resolve), once);
    video.addEventListener("error", () => end(reject, new Error("error")), once);
  });
}

function unload(video) {
  if (!video.hasAttribute("src")) return;
  video.pause();
  video.removeAttribute("src");
  video.load();
}
