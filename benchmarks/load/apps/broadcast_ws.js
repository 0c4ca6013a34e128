// Every message goes to every open WebSocket, with ws on Node.
//
// node broadcast_ws.js PORT

const { WebSocket, WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  backlog: 4096,
  perMessageDeflate: false,
});
server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data) => {
    for (const other of server.clients) {
      if (other.readyState === WebSocket.OPEN) other.send(data, { binary: false });
    }
  });
});
