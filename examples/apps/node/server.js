// Answers with who it is. VCAP_APPLICATION says which instance of which app.
const http = require('http');

const me = JSON.parse(process.env.VCAP_APPLICATION || '{"name":"node","instance_index":0}');

const server = http.createServer((req, res) => {
  // While it leaves, each answer closes its connection.
  if (leaving) res.setHeader('Connection', 'close');
  let size = 0;
  req.on('data', (chunk) => { size += chunk.length; });
  req.on('end', () => res.end(`Hello from ${me.name}/${me.instance_index}, in Node.js ${process.version}` + (size ? `, ${size} bytes read` : '') + '\n'));
});
server.keepAliveTimeout = 90000; // longer than any router keeps a connection

let leaving = false;
process.on('SIGTERM', () => {
  if (leaving) return;
  leaving = true;
  // Routers keep an idle connection for 2 s: until then a request may be under way.
  setTimeout(() => server.close(() => process.exit(0)), 3000);
});

server.listen(process.env.VCAP_APP_PORT || 8080, () => console.log(`serving on port ${server.address().port}`));
