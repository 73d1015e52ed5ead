// Drives the JavaScript OpenTimestamps client, as its own command line does:
//   stamp CALENDAR FILE      writes FILE.ots
//   upgrade CALENDAR FILE    completes FILE.ots; exit code 3 if it can't yet
//   verify EXPLORER FILE     prints height and time of the earliest block; 1 if it doesn't hold
'use strict'
const fs = require('fs')
const OpenTimestamps = require('opentimestamps')
const { DetachedTimestampFile, Ops } = OpenTimestamps

const [command, address, file] = process.argv.slice(2)
console.log = console.error // the library's chatter
const digest = () => DetachedTimestampFile.fromBytes(new Ops.OpSHA256(), fs.readFileSync(file))
const proof = () => DetachedTimestampFile.deserialize([...fs.readFileSync(file + '.ots')])
const write = d => fs.writeFileSync(file + '.ots', Buffer.from(d.serializeToBytes()))

const commands = {
  async stamp () {
    const d = digest()
    await OpenTimestamps.stamp(d, { calendars: [address], m: 1 })
    if (d.timestamp.allAttestations().size !== 1) throw new Error('the calendar gave no attestation')
    write(d)
  },
  async upgrade () {
    const d = proof()
    const changed = await OpenTimestamps.upgrade(d, { whitelist: new OpenTimestamps.Calendar.UrlWhitelist([address]) })
    if (changed) write(d)
    return d.timestamp.isTimestampComplete() ? 0 : 3
  },
  async verify () {
    // url: the block explorer that is asked for headers in place of a node
    const found = await OpenTimestamps.verify(proof(), digest(), { ignoreBitcoinNode: true, url: address, timeout: 20000 })
    if (!found.bitcoin) throw new Error('nothing was verified')
    process.stdout.write(`${found.bitcoin.height} ${found.bitcoin.timestamp}\n`)
  }
}

commands[command]().then(code => { process.exitCode = code || 0 }, err => {
  console.error(err)
  process.exitCode = 1
})
