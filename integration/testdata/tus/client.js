// Sends a file with tus-js-client, a client that isn't ours, and prints the
// address of the upload. It aborts and goes on as often as it is told, as a page does whose
// network comes and goes.
//
//   node client.js SERVER TOKEN FILE PIECE ABORTS
'use strict'
const fs = require('fs')
const tus = require('tus-js-client')

const [server, token, file, piece, aborts] = process.argv.slice(2)
let left = Number(aborts)
let upload

const options = {
  endpoint: server + '/v1/uploads',
  chunkSize: Number(piece),
  retryDelays: [100, 500, 1000, 5000, 10000, 20000, 30000],
  headers: { Authorization: 'Bearer ' + token },
  metadata: { filename: 'from tus-js-client.bin', filetype: 'application/octet-stream' },
  onError: (err) => { console.error(String(err)); process.exit(1) },
  onSuccess: () => console.log(upload.url),
  onChunkComplete: (size, sent, total) => {
    if (sent < total && left-- > 0) {
      // Not this one: another process with the address alone, as it were.
      upload.abort().then(() => start({ ...options, uploadUrl: upload.url }))
    }
  },
}

function start(with_) {
  upload = new tus.Upload(fs.createReadStream(file), { ...with_, uploadSize: fs.statSync(file).size })
  upload.start()
}

start(options)
