// A guestbook that keeps its lines in the Redis that it is bound to: a POST adds one,
// a GET shows them all. VCAP_SERVICES says where Redis is and who the app is there.
const http = require('http');
const net = require('net');

const services = JSON.parse(process.env.VCAP_SERVICES || '{}');
const bound = Object.keys(services).filter((label) => label.startsWith('redis-')).flatMap((label) => services[label]);

// redis sends commands over a connection of their own and gives the last answer: a
// string, a number or a list of strings.
function redis(commands, done) {
  if (bound.length === 0) return done(new Error('no redis service is bound to this app'));
  const { host, port, username, password } = bound[0].credentials;
  const all = [['AUTH', username, password], ...commands];
  const socket = net.connect(port, host);
  let text = '';
  let ended = false;
  const end = (error, answer) => {
    if (ended) return;
    ended = true;
    socket.destroy();
    done(error, answer);
  };
  socket.setEncoding('latin1'); // a character a byte, as lengths count them
  socket.setTimeout(5000, () => end(new Error('redis does not answer')));
  socket.on('error', end);
  socket.on('close', () => end(new Error('redis has closed the connection')));
  socket.on('data', (chunk) => {
    text += chunk;
    let at = 0;
    let answer;
    const line = () => {
      const to = text.indexOf('\r\n', at);
      if (to < 0) throw new RangeError();
      const part = text.slice(at, to);
      at = to + 2;
      return part;
    };
    const value = () => {
      const head = line();
      const n = Number(head.slice(1));
      switch (head[0]) {
        case '-': throw new Error('redis: ' + head.slice(1));
        case ':': return n;
        case '*': return Array.from({ length: n }, value);
        case '$':
          if (text.length < at + n + 2) throw new RangeError();
          at += n + 2;
          return Buffer.from(text.slice(at - n - 2, at - 2), 'latin1').toString();
        default: return head.slice(1);
      }
    };
    try {
      for (let i = 0; i < all.length; i++) answer = value();
    } catch (error) {
      if (!(error instanceof RangeError)) end(error); // else there is more to come
      return;
    }
    end(null, answer);
  });
  for (const words of all) {
    socket.write(`*${words.length}\r\n` + words.map((w) => `$${Buffer.byteLength(w)}\r\n${w}\r\n`).join(''));
  }
}

http.createServer((req, res) => {
  const answer = (error, lines) => {
    res.statusCode = error ? 503 : 200;
    res.setHeader('Content-Type', 'text/plain; charset=utf-8');
    res.end(error ? error.message + '\n' : lines.join('\n') + '\n');
  };
  if (req.method !== 'POST') return redis([['LRANGE', 'guests', '0', '-1']], answer);
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => redis([['RPUSH', 'guests', Buffer.concat(parts).toString().slice(0, 200)], ['LRANGE', 'guests', '0', '-1']], answer));
}).listen(process.env.VCAP_APP_PORT || 8080);
