// Live captions: sound goes to the server in order, one request at a time, and what comes in meanwhile goes with the
// next one, so that nothing is lost however slow the server or the network is. `element` and `server` are given by
// gradio, whose own streaming microphone overwrites a chunk that arrives while the one before is handled.
const worklet = `registerProcessor('hear', class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
});`;
const part = (name) => element.querySelector(`[data-part=${name}]`);
const seconds = 0.25; // of sound in a request
let context = null, stream = null, timer = null;
let session = null, number = 0, waiting = [], request = null, busy = false, ended = false, lost = 0;

const say = (text) => { part('status').textContent = text; };

const encoded = (blocks) => {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const samples = new Int16Array(length);
  let place = 0;
  for (const block of blocks) {
    for (const value of block) samples[place++] = Math.max(-32768, Math.min(32767, Math.round(32767 * value)));
  }
  const bytes = new Uint8Array(samples.buffer);
  let text = '';
  for (let first = 0; first < bytes.length; first += 8192) {
    text += String.fromCharCode(...bytes.subarray(first, first + 8192));
  }
  return btoa(text);
};

const offer = (files) => {
  for (const link of element.querySelectorAll('a[download]')) {
    const text = files[link.download.split('.').pop()];
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([text], {type: 'text/plain'}));
  }
  part('files').hidden = false;
};

const send = async () => {
  if (busy || session === null) return;
  if (request === null && (waiting.length || ended)) {
    request = {session, number, rate: context.sampleRate, ended: ended, sound: encoded(waiting)};
    waiting = [];
  }
  if (request === null) return;
  busy = true;
  try {
    const answer = await server.listen(request);
    lost = 0;
    if (answer.error) return finish(answer.error);
    if (!answer.again) { request = null; number += 1; }
    if (answer.html !== undefined) part('text').innerHTML = answer.html;
    if (answer.files) { offer(answer.files); finish('Finished.'); }
  } catch (error) {
    // The same request is sent again; the server knows by its number whether it was heard.
    lost += 1;
    if (lost > 40) finish('The connection to the server is lost; the text so far is above.');
  } finally {
    busy = false;
  }
};

const finish = (message) => {
  clearInterval(timer);
  close();
  session = null;
  request = null;
  const button = part('button');
  button.textContent = 'Start';
  button.setAttribute('aria-pressed', 'false');
  button.disabled = false;
  say(message);
};

const close = () => {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  if (context && context.state !== 'closed') context.close();
  stream = null;
};

const start = async () => {
  const button = part('button');
  button.disabled = true;
  say('Asking for the microphone …');
  try {
    const plain = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
    stream = await navigator.mediaDevices.getUserMedia({audio: plain});
  } catch (error) {
    button.disabled = false;
    say(window.isSecureContext
      ? `The microphone cannot be used (${error.name}). Allow it for this page, and check that one is connected.`
      : 'Browsers give the microphone only to pages of this machine or with https.');
    return;
  }
  const answer = await server.open_session(null).catch(() => ({error: 'The server does not answer; try again.'}));
  if (answer.error) { close(); button.disabled = false; say(answer.error); return; }
  [session, number, waiting, request, ended, lost] = [answer.session, 0, [], null, false, 0];
  context = new AudioContext();
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], {type: 'text/javascript'})));
  const node = new AudioWorkletNode(context, 'hear', {numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit'});
  node.port.onmessage = (event) => {
    if (ended) return;
    waiting.push(event.data);
    part('level').value = Math.min(1, 3 * event.data.reduce((top, value) => Math.max(top, Math.abs(value)), 0));
  };
  context.createMediaStreamSource(stream).connect(node);
  part('files').hidden = true;
  button.textContent = 'Stop';
  button.setAttribute('aria-pressed', 'true');
  button.disabled = false;
  say('Listening. Nothing is stored.');
  timer = setInterval(send, 1000 * seconds);
};

const stop = () => {
  ended = true;
  part('button').disabled = true;
  part('level').value = 0;
  say('Decoding what is left …');
  if (stream) stream.getTracks().forEach((track) => track.stop());
};

element.addEventListener('click', (event) => {
  if (event.target.closest('[data-part=button]')) (session === null ? start : stop)();
});
