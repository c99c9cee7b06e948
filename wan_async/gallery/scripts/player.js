// Videos that play in step. The longest leads; the others follow it by small changes of their speed, and by a seek if
// they are far off.
const FAR_SECONDS = 0.25, NEAR_SECONDS = 0.006, STEER = 0.2;

class Player {
  constructor(videos, onTime) {
    this.videos = videos;
    this.onTime = onTime;
    this.rate = 1;
    this.wantsPlay = false;
    this.frame = requestAnimationFrame(() => this.tick());
    for (const video of videos) Object.assign(video, { muted: true, playsInline: true, preload: "auto" });
  }

  get leader() {
    return this.videos.reduce((longest, video) => ((video.duration || 0) > (longest.duration || 0) ? video : longest),
      this.videos[0]);
  }

  get duration() {
    const length = this.leader?.duration;
    return Number.isFinite(length) ? length : 0;
  }

  get time() {
    return this.leader?.currentTime ?? 0;
  }

  async play() {  // starts once every video has what it needs, so that they start together
    this.wantsPlay = true;
    await Promise.all(this.videos.map((video) => this.settled(video)));
    if (!this.wantsPlay || !this.duration) return;
    if (this.time >= this.duration - FRAME_SECONDS / 2) return void this.again();
    for (const video of this.videos) if (this.time < video.duration) video.play().catch(() => {});
  }

  settled(video) {
    if (video.readyState >= 3 && !video.seeking || video.error) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => { clearTimeout(timer); resolve(); };
      const timer = setTimeout(done, 3000);
      for (const name of ["canplay", "seeked", "error"]) video.addEventListener(name, done, { once: true });
    });
  }

  pause() {
    this.wantsPlay = false;
    for (const video of this.videos) video.pause();
  }

  toggle() {
    if (this.wantsPlay) this.pause();
    else this.play();
  }

  seek(seconds) {
    for (const video of this.videos) {
      video.currentTime = Math.max(0, Math.min((video.duration || 0) - 0.001, seconds));
    }
  }

  step(frames) {
    this.pause();
    this.seek((Math.round(this.time / FRAME_SECONDS) + frames) * FRAME_SECONDS + 0.001);
  }

  setRate(rate) {
    this.rate = rate;
    for (const video of this.videos) video.playbackRate = rate;
  }

  again() {
    for (const video of this.videos) video.pause();
    this.seek(0);
    this.play();
  }

  tick() {
    this.frame = requestAnimationFrame(() => this.tick());
    const { leader } = this;
    if (!leader) return;
    if (this.wantsPlay && leader.ended) this.again();
    else if (this.wantsPlay && !leader.paused && !leader.seeking) this.steer(leader);
    this.onTime(this);
  }

  steer(leader) {
    for (const video of this.videos) {
      if (video === leader || video.seeking || leader.currentTime >= video.duration) continue;
      if (video.paused) video.play().catch(() => {});
      const ahead = video.currentTime - leader.currentTime;
      if (Math.abs(ahead) > FAR_SECONDS) video.currentTime = leader.currentTime;
      const much = Math.abs(ahead) > NEAR_SECONDS ? Math.max(-STEER, Math.min(STEER, ahead * 4)) : 0;
      const rate = Math.round(this.rate * (1 - much) * 100) / 100;
      if (video.playbackRate !== rate) video.playbackRate = rate;
    }
  }

  end() {
    cancelAnimationFrame(this.frame);
    this.pause();
    this.videos.forEach(unload);
  }
}
