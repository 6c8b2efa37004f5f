// Drives a broker through kafkajs: client.js ADDRESS TOPIC. Admin, producer (plain and gzip), a
// group consumer, committed offsets, group and topic deletion.
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const [address, topic] = process.argv.slice(2)
const COUNT = 1000
const GROUP = `${topic}-group`

function require_(condition, message) {
  if (!condition) throw new Error(message)
}

async function main() {
  const kafka = new Kafka({ clientId: 'js', brokers: [address], logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({
    topics: [{ topic, numPartitions: 3, replicationFactor: 1 }],
    waitForLeaders: true,
  })
  require_((await admin.listTopics()).includes(topic), 'the topic is not listed')

  const producer = kafka.producer({ idempotent: true })
  await producer.connect()
  const expected = new Set()
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    for (let from = 0; from < COUNT / 2; from += 100) {
      const messages = []
      for (let n = from; n < from + 100; n++) {
        const value = `${compression}-${n}`
        expected.add(value)
        messages.push({ key: value, value, headers: { h: '1' } })
      }
      await producer.send({ topic, acks: -1, compression, messages })
    }
  }
  await producer.disconnect()

  const consumer = kafka.consumer({ groupId: GROUP })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const seen = []
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${seen.length} of ${COUNT}`)), 60000)
    consumer.run({
      eachMessage: async ({ message }) => {
        require_(message.headers.h.toString() === '1', 'header')
        seen.push(message.value.toString())
        if (seen.length === COUNT) {
          clearTimeout(timer)
          resolve()
        }
      },
    }).catch(reject)
  })
  // Stopping waits for the handler of the last record and commits its offset.
  await consumer.stop()
  await consumer.disconnect()
  require_(seen.length === COUNT && seen.every((v) => expected.has(v)), 'other records than sent')
  require_(new Set(seen).size === COUNT, 'a record came twice')

  const committed = await admin.fetchOffsets({ groupId: GROUP, topics: [topic] })
  const sum = committed[0].partitions.reduce((total, p) => total + Number(p.offset), 0)
  require_(sum === COUNT, `committed offsets sum to ${sum}`)
  const ends = await admin.fetchTopicOffsets(topic)
  require_(ends.reduce((total, p) => total + Number(p.high), 0) === COUNT, 'high watermarks')
  await admin.deleteGroups([GROUP])
  await admin.deleteTopics({ topics: [topic] })
  await admin.disconnect()
  console.log('ok', seen.length, 'records')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
