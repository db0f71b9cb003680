// The player of captions: marks the word that is heard, and goes to where one clicks. It runs once; what is played,
// shown and followed is looked up anew each time, as every recording replaces it. `element` is given by gradio.
const media = () => element.querySelector('audio, video');
const follow = () => {
  const player = media();
  if (!player) return;
  const time = player.currentTime;
  for (const word of element.querySelectorAll('.w')) {
    const now = time >= Number(word.dataset.start) && time < Number(word.dataset.end);
    if (now && !word.classList.contains('now')) word.closest('li').scrollIntoView({block: 'nearest'});
    word.classList.toggle('now', now);
  }
  const line = element.querySelector('.at');
  if (line && player.duration) {
    const x = 1000 * time / player.duration;
    line.setAttribute('x1', x);
    line.setAttribute('x2', x);
  }
  if (!player.paused && !player.ended) requestAnimationFrame(follow);
};
for (const event of ['play', 'seeked', 'pause', 'ended']) element.addEventListener(event, follow, true);
element.addEventListener('click', (event) => {
  const player = media();
  const timed = event.target.closest('[data-start]');
  const picture = event.target.closest('svg');
  if (!player || !(timed || picture)) return;
  if (timed) player.currentTime = Number(timed.dataset.start);
  else {
    const box = picture.getBoundingClientRect();
    player.currentTime = player.duration * (event.clientX - box.left) / box.width;
  }
  player.play();
});
